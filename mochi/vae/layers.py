"""The building blocks of AsymmVAE: ordinary layers, applied causally in time and frame by frame.

Activations are (B, C, T, H, W) in torch's channels_last_3d memory format, in which a frame's norm,
a Linear over channels and a convolution all read memory in order, without copies.
"""

from typing import Any, TypeVar

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

    In time x is padded by `kernel - 1` frames in front: the first frame repeated or, in a stream, the end of the chunk
    before. In space it is padded by half a kernel on each side, unless the convolution strides there. A convolution
    that strides does so by its kernel.
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
    return conv(x.contiguous(memory_format=torch.channels_last_3d))


Network = TypeVar("Network", bound=nn.Module)


def in_order(network: Network, device: torch.device | str | None) -> Network:
    """The network with the weights of its convolutions in the order of memory that the device computes with.

    On CUDA that is channels_last_3d, like the activations; cuDNN would otherwise reorder them at each call.
    """
    on_cuda = device is not None and torch.device(device).type == "cuda"
    return network.to(memory_format=torch.channels_last_3d) if on_cuda else network


def added(x: Tensor, branch: Tensor) -> Tensor:
    """`x + branch`, in the memory of the branch where that saves time and no gradients are needed."""
    return x + branch if branch.requires_grad or branch.numel() <= FEW else branch.add_(x)


class ResBlock(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`.

    Where a stage has attention, its block is a child of this one, as the published names have it. The encoder applies
    it, since it sees the whole video.
    """

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
        norm1, norm2 = (layer for layer in self.stack if isinstance(layer, nn.GroupNorm))
        conv1, conv2 = (layer for layer in self.stack if isinstance(layer, nn.Conv3d))
        branch = causal_conv(conv2, causal_conv(conv1, x, stream, norm1), stream, norm2)
        return added(x, branch)
