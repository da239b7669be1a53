"""Kernels of packings are compiled for devices of NVIDIA that are not here, as they are called with tensors."""

from __future__ import annotations

import pytest
import torch

from mochi.packing import PACKED
from mochi.packing.ggml import FORMATS

triton = pytest.importorskip("triton")


class Driver:
    """A device of which only the capability is known."""

    def __init__(self, capability: int):
        self._capability = capability

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # compiled kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(params=[89, 90], ids="sm_{}".format)
def compiled(request, monkeypatch, tmp_path) -> list:
    """The kernels that are compiled, none of which is launched."""
    launch, found = triton.runtime.JITFunction.run, []
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver(request.param))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def run(kernel, *args, grid, warmup, **options):
        found.append(launch(kernel, *args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(triton.runtime.JITFunction, "run", run)
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks(kind: str, compiled: list):
    """Products and sums are not fused: the formulas round both."""
    from mochi.kernels import ggml

    ggml.unpack_blocks(torch.zeros(4, 4 * FORMATS[kind].size, dtype=PACKED), kind, torch.bfloat16)
    (kernel,) = compiled
    assert "mul." in kernel.asm["ptx"] and "fma." not in kernel.asm["ptx"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_float8(dtype: torch.dtype, compiled: list):
    from mochi.kernels import float8

    for columns in (48, 3072, 8192):
        float8.quantise_rows(torch.zeros(2, columns, dtype=dtype))
    float8.quantise(torch.zeros(2, 64, dtype=dtype), torch.ones(()))
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        float8.unpack_scaled(torch.zeros(2, 64, dtype=PACKED), kind, 0.5, dtype)
    assert len(compiled) == 6
    assert all("satfinite.e4m3x2" in kernel.asm["ptx"] for kernel in compiled[:4])


@pytest.mark.parametrize("width", [1536, 3072])
def test_quantised_rows(width: int, compiled: list):
    from mochi.kernels import norm, swiglu

    x, vector = torch.zeros(1, 5, width, dtype=torch.bfloat16), torch.zeros(1, width, dtype=torch.bfloat16)
    norm.modulated_rms_norm_rows(x, vector, 1e-6)
    norm.gated_residual_norm_rows(x, x, vector, vector, 1e-6)
    swiglu.swiglu_rows(torch.zeros(1, 5, 16384, dtype=torch.bfloat16))
    assert len(compiled) == 3
    assert all("satfinite.e4m3x2" in kernel.asm["ptx"] for kernel in compiled)
