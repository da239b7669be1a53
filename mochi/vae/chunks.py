"""How many latent frames the decoder takes at a time, and how many values are then alive.

A streaming convolution remembers its last two input frames (the tails). Memory peaks in the last blocks, at the full
size of the picture, where a convolution pads its input. `python -m benchmarks.memory` holds the counts against the
tensors that are alive in a run.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ..config import DecoderConfig
from .decoder import deep_chunk, frames_in_piece

KERNELS = 1
"""Copies of the activations at full size that kernels may take inside themselves: a convolution's workspace or, without
Triton, the input that torch's GroupNorm on CUDA makes contiguous. An allowance."""

BUSY = 24 * 848 * 480
"""Pixels of all frames that keep a GPU busy. With fewer at a time, launches cost time, and so do the two frames that
each convolution takes along from the piece before. More only take memory."""

LARGEST = 2**31 - 1
"""Values of the largest tensor that CUDA's convolutions can index."""


class Stage(NamedTuple):
    """Residual blocks of one width. For each latent, they see `time` frames and `space` rows and columns."""

    width: int
    blocks: int
    time: int
    space: int


def stages(config: DecoderConfig) -> Iterator[Stage]:
    """The decoder's stages, from the latents to the frames."""
    time = space = 1
    deep, *others, shallow = reversed(config.res_blocks)
    yield Stage(config.widths[-1], deep, time, space)
    for i, blocks in zip(reversed(range(len(others))), others, strict=True):
        yield Stage(config.widths[i + 1], blocks, time, space)
        time, space = time * config.temporal[i], space * config.spatial[i]
    yield Stage(config.widths[0], shallow, time, space)


def live_values(config: DecoderConfig, chunk: int, rows: int, columns: int, in_strips: bool = False) -> dict[str, int]:
    """Values alive at the peak, by what they are for, with `chunk` latent frames of `rows` x `columns` at a time.

    in_strips: whether other devices decode the rest of the picture; see `frames_in_piece`.
    """

    def frame(stage: Stage, border: int = 0) -> int:
        return stage.width * (rows * stage.space + border) * (columns * stage.space + border)

    _, _, expanded, *_, last = every = list(stages(config))
    frames = frames_in_piece(config, chunk, in_strips) * last.time // expanded.time
    piece = frames * frame(last)
    return {
        "tails": sum(2 * stage.blocks * 2 * frame(stage, border=2) for stage in every),
        # The deep layers' output, from which pieces are taken.
        "deep layers": deep_chunk(chunk) * expanded.time * frame(expanded),
        # A block's input, the first convolution's output and silu of its norm; that padded, with two frames in front;
        # and the three colours of the piece before, which the caller still holds.
        "layers": 3 * piece + (frames + 2) * frame(last, border=2) + 3 * piece // last.width,
        "kernels": KERNELS * piece,
    }


def chunk_for(
    config: DecoderConfig, latents: Sequence[int], free: float, compute: torch.dtype = torch.bfloat16, wanted: int = 0
) -> int:
    """Latent frames of VAE latents (B, 12, T, h, w) to decode at a time on a GPU with `free` bytes; at least one.

    These are as many as `wanted` or, without a wish, as many as keep the GPU busy, if they fit in half of `free`.
    """
    batch, _, frames, height, width = latents
    *_, last = stages(config)
    rows, columns = height * last.space, width * last.space
    useful = wanted or math.ceil(BUSY / (batch * last.time * rows * columns))

    def fits(chunk: int) -> bool:
        values = batch * sum(live_values(config, chunk, height, width).values())
        padded = batch * last.width * (chunk * last.time + 2) * (rows + 2) * (columns + 2)
        return values * compute.itemsize <= free / 2 and padded <= LARGEST

    return next((chunk for chunk in range(min(frames, useful), 1, -1) if fits(chunk)), 1)
