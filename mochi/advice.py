"""What a person is told about a run that does not fit, and what to choose instead."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from .geometry import SPACE, frame_count
from .memory import Denoising, in_gb, weight_bytes
from .parallel.split import usable_ranks
from .quant import Float8, Ggml, QuantFormat

FILES: dict[str, QuantFormat | None] = {
    "bf16, or cast from float32": None,
    "fp8, plain or scaled": Float8(torch.float8_e4m3fn),
    "GGUF Q8_0": Ggml("Q8_0"),
    "GGUF Q4_0": Ggml("Q4_0"),
    "GGUF Q3_K_M": Ggml("Q3_K"),
}
"""The denoiser's files that are published, the largest first, and how they quantise the blocks' Linear layers."""

WORTH_A_TRY = 5
"""Latent frames of the shortest video that is offered: 25 frames, about a second."""


def warning_for(run: Denoising, free: int) -> str | None:
    """None where denoising fits; else one sentence on what it needs, what there is, and what to choose instead.

    free: bytes that a device has for weights and activations together, with those of our weights that it already holds.
    """
    if run.fits(free):
        return None
    height, width = run.latents[3:]
    device = "the device has" if run.ranks == 1 else "each of the devices has"
    *most, last = list(_alternatives(run, free)) or ["a smaller width and height"]
    return (
        f"A video of {width * SPACE} x {height * SPACE}, {frame_count(run.latent_frames)} frames needs about "
        f"{in_gb(run.need.total)} to denoise, but {device} {in_gb(free)} for it; "
        f"choose {', '.join(most)}{' or ' if most else ''}{last}."
    )


def _alternatives(run: Denoising, free: int) -> Iterator[str]:
    """Settings that would fit, one change at a time."""
    frames = run.longest(run.latent_frames - 1, free)
    if frames >= WORTH_A_TRY:
        yield f"{frame_count(frames)} frames or fewer"
    for title, quant in FILES.items():
        with suppress(ValueError):  # blocks that do not divide the network's rows
            size = weight_bytes(run.config, quant, run.compute)
            if size < run.weights and replace(run, weights=size).fits(free):
                yield f"a smaller file of weights ({title}, {in_gb(size)})"
                break
    offloaded = replace(run, sharding="offloaded")
    if run.ranks > 1 and run.sharding == "replicated" and replace(run, sharding="sharded").fits(free):
        yield "sharded weights"
    elif run.sharding != "offloaded" and offloaded.fits(free):
        yield f"offloaded weights ({in_gb(offloaded.host)} in the machine's memory)"
    spread = "sharded" if run.sharding == "replicated" else run.sharding
    for ranks in (2, 4, 8):
        is_split = ranks > run.ranks and usable_ranks(ranks, run.config.num_heads) == ranks
        if is_split and replace(run, ranks=ranks, sharding=spread).fits(free):
            yield f"{ranks} GPUs with {spread} weights"
            break
