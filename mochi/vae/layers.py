"""The building blocks of AsymmVAE: ordinary layers, applied causally in time and frame by frame.

Activations are (B, C, T, H, W) in torch's channels_last_3d memory format, in which a frame's norm,
a Linear over channels and a convolution all read memory in order, without copies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .stream import FEW, Stream


def per_position(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a Linear over the channels of x (B, C, ...)."""
    x = x.movedim(1, -1)
    # As a matrix, or CUDA adds the bias by itself.
    return linear(x.flatten(0, -2)).unflatten(0, x.shape[:-1]).movedim(-1, 1)


def causal_conv(conv: nn.Conv3d, x: Tensor, stream: Stream, norm: nn.GroupNorm | None = None) -> Tensor:
    """Apply a Conv3d that never sees the future to x or, where a norm is given, to `silu(norm(x))`.

    Padding: in time `kernel - 1` frames in front and none behind, the first frame repeated or, in a stream, the end
    of the chunk before; in space half a kernel on each side, unless the convolution strides there. One that strides
    does so by its kernel.
    """
    time, *space = conv.kernel_size
    rows, columns = ((k - 1) // 2 if s == 1 else 0 for k, s in zip(space, conv.stride[1:], strict=True))
    # A convolution that strides in time needs its padding once: from then on its windows lie side by side.
    strides = conv.stride[0] > 1
    lead, borders = 0 if strides and stream.started else time - 1, stream.borders
    # In space first: a frame that stays in the tail brings its border along.
    x = borders.pad(x, lead, rows, columns) if norm is None else borders.activate(norm, x, lead, rows, columns)
    if lead:  # into the room in front; joining them by `cat` costs a quarter of the convolution
        x[:, :, :lead] = stream.tails.pop(conv, x[:, :, lead : lead + 1])
    if lead and not strides and not stream.ends:
        stream.tails[conv] = x[:, :, -lead:].clone()
    return convolved(conv, x.contiguous(memory_format=torch.channels_last_3d))


def convolved(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """`conv(x)`. On a CPU torch takes a slow way, up to eight times as slow, where channels, frames and rows are few,
    however many columns there are: here the fast one is taken. Of few values each frame is computed by itself, so that
    it is rounded alike in any piece of a video."""
    if x.device.type == "cpu" and x.dtype == conv.weight.dtype == torch.float32:
        if x.numel() <= FEW:
            windows = x.unfold(2, conv.kernel_size[0], conv.stride[0])  # (B, C, T, H, W, time)
            frames = conv(windows.permute(0, 2, 1, 5, 3, 4).flatten(0, 1))  # (B T, C, 1, H, W)
            return frames.squeeze(2).unflatten(0, windows.shape[0:3:2]).transpose(1, 2)
        if torch.backends.mkldnn.is_available():
            weights = (conv.weight, conv.bias)
            return torch.mkldnn_convolution(x, *weights, (0, 0, 0), conv.stride, conv.dilation, conv.groups)
    return conv(x)


def in_order(network: nn.Module, device: torch.device | str | None) -> nn.Module:
    """The network with the weights of its convolutions as the device wants them where it will compute: on CUDA in
    channels_last_3d like the activations, or cuDNN would put them in order at each call."""
    on_cuda = device is not None and torch.device(device).type == "cuda"
    return network.to(memory_format=torch.channels_last_3d) if on_cuda else network


def added(x: Tensor, branch: Tensor) -> Tensor:
    """`x + branch`, in the branch's memory where that counts."""
    return x + branch if branch.requires_grad or branch.numel() <= FEW else branch.add_(x)


class ResBlock(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`. Where the stage has attention, its block is kept here, for the
    published names, and applied by the encoder, since it sees more of the video than a piece."""

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

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, C, T, H, W) -> the same shape."""
        norm1, _, conv1, norm2, _, conv2 = self.stack
        branch = causal_conv(conv2, causal_conv(conv1, x, stream, norm1), stream, norm2)
        return added(x, branch)
