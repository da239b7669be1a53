"""What surrounds the piece of video that a layer sees: other frames in time, the rest of the picture in space.

The networks are written for a whole video on one device. They take their surroundings as an argument, so that a
video can pass through them in pieces: a few frames at a time (`Stream`), or a part of the picture (`Borders` that
know its neighbours, given from outside).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Borders:
    """Surroundings in space of a whole picture: there are none, and its border is repeated."""

    def pad(self, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """x (B, C, T, H, W) with its first frame repeated `time` times in front and its borders on both sides."""
        if not (time or rows or columns):
            return x
        return F.pad(x, (columns, columns, rows, rows, time, 0), mode="replicate")

    def norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """A GroupNorm of x (B, C, T, H, W) with the statistics of each frame alone."""
        frames = x.transpose(1, 2)
        return norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    def activate(self, norm: nn.GroupNorm, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """What a convolution behind norm and SiLU sees: `silu(norm(x))`, padded."""
        return self.pad(F.silu(self.norm(norm, x)), time, rows, columns)


class Stream:
    """What a causal network knows of a video besides the chunk of frames that it sees.

    borders: the surroundings in space. started: whether there were chunks before. ends: whether this chunk is the
    last one. tails: the last input frames of each temporal convolution, with their padding in space; kept only
    for a chunk to come.
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
