"""The building blocks of AsymmVAE: ordinary layers, applied causally in time and frame by frame.

Activations are (B, C, T, H, W) in torch's channels_last_3d memory format, in which a frame's norm,
a Linear over channels and a convolution all read memory in order; on a CPU without copies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def per_position(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a Linear over the channels of x (B, C, ...)."""
    return linear(x.movedim(1, -1)).movedim(-1, 1)


class Stream:
    """What a causal network remembers of a video between its chunks.

    tails: the last input frames of each temporal convolution. started: whether the first chunk is done.
    """

    def __init__(self) -> None:
        self.tails: dict[nn.Module, Tensor] = {}
        self.started = False


def causal_conv(conv: nn.Conv3d, x: Tensor, stream: Stream | None = None) -> Tensor:
    """Apply a Conv3d that never sees the future.

    Padding repeats the border: in time `kernel - 1` frames in front and none behind; in space half a
    kernel on each side, unless the convolution strides there. In a stream, the end of the chunk before
    takes the place of the padding in front.
    """
    time, *space = conv.kernel_size
    rows, columns = ((k - 1) // 2 if s == 1 else 0 for k, s in zip(space, conv.stride[1:], strict=True))
    lead = time - 1
    if stream is not None and lead:
        tail = stream.tails.get(conv)
        if tail is not None:
            x, lead = torch.cat((tail, x), dim=2), 0
        last = torch.arange(x.shape[2] - time + 1, x.shape[2], device=x.device).clamp(min=0)
        stream.tails[conv] = x[:, :, last]
    if lead or rows or columns:
        x = F.pad(x, (columns, columns, rows, rows, lead, 0), mode="replicate")
    return conv(x.contiguous(memory_format=torch.channels_last_3d))


def frame_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Apply a GroupNorm with the statistics of each frame alone."""
    frames = x.transpose(1, 2)
    return norm(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class ResBlock(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`, then causal attention where the stage has it."""

    def __init__(self, dim: int, groups: int, operations: Any, attention: nn.Module | None = None, **factory: Any):
        super().__init__()
        # A Sequential for the published names only: it is never called as one.
        self.stack = nn.Sequential(
            operations.GroupNorm(groups, dim, **factory),
            nn.SiLU(),
            operations.Conv3d(dim, dim, kernel_size=3, **factory),
            operations.GroupNorm(groups, dim, **factory),
            nn.SiLU(),
            operations.Conv3d(dim, dim, kernel_size=3, **factory),
        )
        self.attn_block = attention

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        norm1, _, conv1, norm2, _, conv2 = self.stack
        branch = causal_conv(conv1, F.silu(frame_norm(norm1, x)), stream)
        branch = causal_conv(conv2, F.silu(frame_norm(norm2, branch)), stream)
        x = x + branch
        return x if self.attn_block is None else self.attn_block(x)
