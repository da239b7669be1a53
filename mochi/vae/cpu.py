"""Layers of AsymmVAE for a CPU, as a namespace of operations."""

from typing import Any

import torch
from torch import Tensor, nn

from .stream import FEW


class CpuConv3d(nn.Conv3d):
    """A Conv3d without padding that is fast on a CPU in float32. Elsewhere it is torch's own.

    Where channels, frames and rows are few, however many columns there are, torch takes a way that is up to eight times
    as slow. A host can put this class before its own Conv3d.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
        # Options are for the host's: newer ones hand on `autopad`, which is None where a network does not ask for it.
        if input.device.type != "cpu" or not input.dtype == weight.dtype == torch.float32:
            return super()._conv_forward(input, weight, bias, **options)
        if input.numel() <= FEW:
            # Each frame by itself, so that it is rounded alike in any piece of a video.
            windows = input.unfold(2, self.kernel_size[0], self.stride[0])  # (B, C, T, H, W, time)
            frames = super()._conv_forward(windows.permute(0, 2, 1, 5, 3, 4).flatten(0, 1), weight, bias, **options)
            return frames.squeeze(2).unflatten(0, windows.shape[0:3:2]).transpose(1, 2)
        if torch.backends.mkldnn.is_available():
            return torch.mkldnn_convolution(input, weight, bias, (0, 0, 0), self.stride, self.dilation, self.groups)
        return super()._conv_forward(input, weight, bias, **options)


class CpuOperations:
    """The namespace that the VAE takes its layers from, unless a host has its own."""

    Conv3d = CpuConv3d
    GroupNorm = nn.GroupNorm
    Linear = nn.Linear
