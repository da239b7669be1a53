"""GroupNorm's kernels, compiled as the published decoder calls them for devices that are not here."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

# Channels, height and width, from the latents to the frames.
STAGES = [(768, 60, 106), (512, 120, 212), (256, 240, 424), (128, 480, 848)]
CASES = [*((90, stage) for stage in STAGES), (80, STAGES[-1]), (89, STAGES[-1])]


@pytest.mark.parametrize(("compiled", "stage"), CASES, ids=str, indirect=["compiled"])
def test_memory_is_read_by_sixteen_bytes(compiled, stage, tmp_path):
    from mochi.kernels import group_norm

    channels, height, width = stage
    last = {"dtype": torch.bfloat16, "memory_format": torch.channels_last_3d}
    x = torch.empty(1, channels, 4, height, width, **last)
    padded = torch.empty(1, channels, 6, height + 2, width + 2, **last)
    weight = torch.ones(channels, dtype=torch.bfloat16)
    statistics = group_norm.frame_statistics(x, 32)
    group_norm.normalise(x, statistics, weight, weight, 1e-5, True, padded[:, :, 2:])
    group_norm.pooled(torch.stack([statistics] * 4), torch.ones(4))

    kernels = {kernel.name: kernel for kernel in compiled}
    assert kernels.keys() == {"_chunk_statistics", "_group_statistics", "_normalise", "_pooled"}
    assert not any(spilled_bytes(kernel, tmp_path / "cubin") for kernel in compiled)
    read, normed = (accesses(kernels[name]) for name in ("_chunk_statistics", "_normalise"))
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
