"""GroupNorm's kernels are compiled for an H100, which is not here, as the published decoder calls them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

triton = pytest.importorskip("triton")
H100 = ("cuda", 90, 32)

# Channels, height and width, from the latents to the frames.
STAGES = [(768, 60, 106), (512, 120, 212), (256, 240, 424), (128, 480, 848)]


@pytest.fixture
def compiled(monkeypatch, tmp_path) -> Iterator[dict[str, Any]]:
    """The kernels that were compiled, by name; none is launched."""
    kernels: dict[str, Any] = {}
    launch = triton.runtime.JITFunction.run

    def compile_only(kernel: Any, *args: Any, warmup: bool, **options: Any) -> None:
        kernels[kernel.__name__] = launch(kernel, *args, warmup=True, **options)

    driver = SimpleNamespace(
        get_current_target=lambda: triton.backends.compiler.GPUTarget(*H100),
        get_current_device=lambda: -1,  # compiled kernels are kept by device
        get_current_stream=lambda device: 0,
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    with mock.patch.object(triton.runtime.JITFunction, "run", compile_only):
        yield kernels


@pytest.mark.parametrize(("channels", "height", "width"), STAGES)
def test_memory_is_read_by_sixteen_bytes(channels, height, width, compiled, tmp_path):
    from mochi.kernels import group_norm

    last = {"dtype": torch.bfloat16, "memory_format": torch.channels_last_3d}
    x = torch.empty(1, channels, 4, height, width, **last)
    padded = torch.empty(1, channels, 6, height + 2, width + 2, **last)
    weight = torch.ones(channels, dtype=torch.bfloat16)
    statistics = group_norm.frame_statistics(x, 32)
    group_norm.normalise(x, statistics, weight, weight, 1e-5, True, padded[:, :, 2:])
    group_norm.pooled(torch.stack([statistics] * 4), torch.ones(4))

    assert compiled.keys() == {"_chunk_statistics", "_group_statistics", "_normalise", "_pooled"}
    assert not any(spilled_bytes(kernel, tmp_path / "cubin") for kernel in compiled.values())
    read, normed = (accesses(compiled[name]) for name in ("_chunk_statistics", "_normalise"))
    tile = group_norm.ELEMENTS // 8 // 128  # of 128 threads
    assert {access for access in read if access.startswith("ld")} == {"ld.global.v4.b32"}
    assert normed.count("ld.global.v4.b32") == normed.count("st.global.v4.b32") == tile


def spilled_bytes(kernel: Any, file: Path) -> int:
    """Of registers that a thread keeps in memory."""
    file.write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"LOCAL:(\d+)", usage.stdout + usage.stderr)[1])


def accesses(kernel: Any) -> list[str]:
    return re.findall(r"(?:ld|st)\.global\.[\w.]+", kernel.asm["ptx"])
