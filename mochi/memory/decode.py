"""Decoding: what is alive when AsymmVAE makes some frames of a video.

The stream remembers the last two input frames of each convolution (tails). The peak is in the last blocks, at the full
size of the picture, where a convolution's input is padded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from ..config import DecoderConfig
from ..parallel.spmd.vae import plan_strips
from ..vae import Decoder
from ..vae.decoder import deep_chunk, frames_in_piece
from .need import SLACK, Need, collectives

KERNELS = 1
"""Copies of the activations at full size for what kernels take in themselves: a convolution's workspace or, without
Triton, what torch's GroupNorm on CUDA puts in order. Not measured on a GPU."""

BUSY = 24 * 848 * 480
"""Pixels of all frames at a time with which a GPU has enough to do. Fewer cost launches, and each convolution the two
frames that it takes along from the piece before; more only take memory."""

LARGEST = 2**31 - 1
"""Values of a tensor that CUDA's convolutions can count."""


class Stage(NamedTuple):
    """Residual blocks of one width. time, space: frames, and rows or columns, that they have for one of the latents."""

    width: int
    blocks: int
    time: int
    space: int


def decoding(
    config: DecoderConfig, latents: Sequence[int], ranks: int = 1, compute: torch.dtype = torch.bfloat16, chunk: int = 0
) -> Need:
    """The peak of decoding VAE latents (B, 12, T, h, w); one device keeps all frames until it has the last one.

    chunk: latent frames at a time; 0 for as few as it can be. See `chunk_for`.
    """
    batch, _, frames, height, width = latents
    values = strip_values(config, latents, ranks, chunk)
    stage = list(stages(config))[-1]
    video = 3 * ((frames - 1) * stage.time + 1) * height * width * stage.space**2
    return Need(
        {
            "weights": _parameters(config) * compute.itemsize,
            **{name: batch * count * compute.itemsize for name, count in values.items()},
            # Piece by piece, and joined; ranks send off each piece.
            "frames": (2 * batch * video if ranks == 1 else 0) * compute.itemsize,
            "collectives": collectives(ranks),
            "slack": SLACK,
        }
    )


def stages(config: DecoderConfig) -> Iterator[Stage]:
    """From the latents to the frames."""
    time = space = 1
    yield Stage(config.widths[-1], config.res_blocks[-1], time, space)
    for i in reversed(range(len(config.temporal))):
        yield Stage(config.widths[i + 1], config.res_blocks[i + 1], time, space)
        time, space = time * config.temporal[i], space * config.spatial[i]
    yield Stage(config.widths[0], config.res_blocks[0], time, space)


def strip_values(config: DecoderConfig, latents: Sequence[int], ranks: int = 1, chunk: int = 0) -> dict[str, int]:
    """`live_values` where the most are, when the picture of latents (B, 12, T, h, w) is cut for ranks."""
    frames, height, width = latents[2:]
    strips = plan_strips(height, width, ranks)
    rows, columns = (max(strips.sizes), width) if strips.axis == 3 else (height, max(strips.sizes))
    return live_values(config, min(chunk or strips.chunk, frames), rows, columns, in_strips=ranks > 1)


def live_values(config: DecoderConfig, chunk: int, rows: int, columns: int, in_strips: bool = False) -> dict[str, int]:
    """Values alive at the peak, with `chunk` latent frames of `rows` x `columns` at a time, by what they are for.

    in_strips: see `frames_in_piece`.
    """

    def picture(stage: Stage, border: int = 0) -> int:
        return stage.width * (rows * stage.space + border) * (columns * stage.space + border)

    _, _, expanded, *_, last = every = list(stages(config))
    tails = sum(2 * stage.blocks * 2 * picture(stage, border=2) for stage in every)
    # What the deep layers have made, of which pieces are taken.
    deep = deep_chunk(chunk) * expanded.time * picture(expanded)
    # The block's input, the first convolution's output, silu of its norm; that padded, by two frames in front; and the
    # last piece of the video, which whoever took it still holds.
    frames = frames_in_piece(config, chunk, in_strips) * last.time // expanded.time
    piece = 3 * frames * picture(last) // last.width
    layers = 3 * frames * picture(last) + (frames + 2) * picture(last, border=2) + piece
    return {"tails": tails, "deep layers": deep, "layers": layers, "kernels": KERNELS * frames * picture(last)}


def chunk_for(
    config: DecoderConfig, latents: Sequence[int], free: float, compute: torch.dtype = torch.bfloat16, wanted: int = 0
) -> int:
    """Latent frames of VAE latents (B, 12, T, h, w) to decode at a time on a GPU with `free` bytes: as many as are
    `wanted`, or keep it busy, if they fit in half of that; at least one."""
    batch, _, frames, height, width = latents
    last = list(stages(config))[-1]
    rows, columns = height * last.space, width * last.space
    useful = wanted or math.ceil(BUSY / (batch * last.time * rows * columns))

    def fits(chunk: int) -> bool:
        values = batch * sum(live_values(config, chunk, height, width).values())
        padded = batch * last.width * (chunk * last.time + 2) * (rows + 2) * (columns + 2)
        return values * compute.itemsize <= free / 2 and padded <= LARGEST

    return next((chunk for chunk in range(min(frames, useful), 1, -1) if fits(chunk)), 1)


@lru_cache
def _parameters(config: DecoderConfig) -> int:
    return sum(math.prod(p.shape) for p in Decoder(config, device="meta").parameters())
