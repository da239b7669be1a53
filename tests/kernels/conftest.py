"""Kernels compiled for NVIDIA's devices that are not here, as they are called with tensors; none is launched."""

from typing import Any

import pytest


class Device:
    """In place of Triton's driver: a device of which only the capability is known."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(params=[80, 89, 90], ids="sm_{}".format)
def compiled(request, monkeypatch, tmp_path) -> list[Any]:
    """The kernels that were compiled where they would have been launched, for a device of that capability."""
    runtime = pytest.importorskip("triton").runtime
    kernels, run = [], runtime.JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernels.append(run(kernel, *args, grid=grid, warmup=True, **options))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(runtime.driver, "_active", Device(request.param))
    monkeypatch.setattr(runtime.JITFunction, "run", compile_only)
    return kernels
