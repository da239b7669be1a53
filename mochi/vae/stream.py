"""The surroundings of the piece of video that a layer sees: frames before it, and the picture beside it.

The networks take their surroundings as an argument, so that a video can pass through them in pieces: a few frames at a
time (`Stream`), or a part of the picture (`Borders` that know its neighbours).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.dispatch import has_kernels
from .norm import frame_statistics, normalise_by, repeat_borders

FEW = 1 << 16
"""A tensor of at most this many values takes next to no time, so it is computed in the plainest way."""


class Borders:
    """Surroundings in space of a whole picture: nothing is beside it, so its border is repeated."""

    def pad(self, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """x (B, C, T, H, W) with its borders on both sides, and in front room for `time` frames."""
        if not (time or rows or columns):
            return x
        padded = room_around(x, time, rows, columns)
        inside(padded, x, time, rows, columns).copy_(x)
        repeat_borders(padded[:, :, time:], rows, columns)
        return padded

    def norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """A GroupNorm of x (B, C, T, H, W) with the statistics of each frame alone."""
        if has_kernels(x, norm.weight):
            return normalise_by(norm, x, frame_statistics(x, norm.num_groups), room_around(x, 0, 0, 0), activate=False)
        frames = x.transpose(1, 2)
        return norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def activate(self, norm: nn.GroupNorm, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """The input of a convolution after norm and SiLU: `silu(norm(x))`, padded."""
        if has_kernels(x, norm.weight):
            padded = room_around(x, time, rows, columns)
            normalise_by(norm, x, frame_statistics(x, norm.num_groups), padded[:, :, time:], activate=True)
            return padded
        normed = self.norm(norm, x)
        if normed.requires_grad or normed.numel() <= FEW:
            return self.pad(F.silu(normed), time, rows, columns)
        padded = room_around(x, time, rows, columns)
        torch.ops.aten.silu.out(normed, out=inside(padded, x, time, rows, columns))
        repeat_borders(padded[:, :, time:], rows, columns)
        return padded


def room_around(x: Tensor, time: int, rows: int, columns: int) -> Tensor:
    """Memory for x (B, C, T, H, W) with `time` frames in front, and rows and columns on both sides."""
    b, c, t, h, w = x.shape
    size = (b, c, time + t, h + 2 * rows, w + 2 * columns)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def inside(padded: Tensor, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
    """The part of `padded`, made by `room_around`, that x belongs in."""
    height, width = x.shape[3:]
    return padded[:, :, time:, rows : rows + height, columns : columns + width]


class Stream:
    """The state of a causal network between the chunks of a video.

    Attributes:
        borders: the surroundings in space.
        started: whether there were chunks before.
        ends: whether this chunk is the last one.
        tails: the last input frames of each temporal convolution, with their padding in space; kept only for a chunk to
            come.
    """

    def __init__(self, borders: Borders | None = None):
        self.borders = borders or Borders()
        self.started, self.ends = False, False
        self.tails: dict[nn.Module, Tensor] = {}

    @classmethod
    def whole(cls, borders: Borders | None = None) -> Stream:
        """A stream of one chunk."""
        stream = cls(borders)
        stream.ends = True
        return stream


def piece_sizes(total: int, each: int, lead: int) -> list[int]:
    """The sizes of pieces of `each` frames that make up `total`. The first one has `lead` frames less."""
    first = min(total, each - lead)
    return [first, *(min(each, total - start) for start in range(first, total, each))]
