"""GroupNorm of a video with the statistics of each frame alone.

It is written in the steps that a part of a picture needs: statistics of the part, statistics of the whole, the norm
itself. torch's own GroupNorm does all of them at once, for a whole picture.

Activations are (B, C, T, H, W) in channels_last_3d, for which torch has no GroupNorm on CUDA. There these formulas are
kernels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import formula


@formula("group_norm:frame_statistics")
def frame_statistics(x: Tensor, groups: int) -> Tensor:
    """Mean and variance (2, B, T, groups) of each frame and group of channels of x (B, C, T, H, W), at least float32.

    In two passes, first of channels, corrected for the first one's rounding (Chan, Golub, LeVeque 1983): torch's own
    group norm, in one pass, is a hundred times less accurate on a CPU.
    """
    frames = x.transpose(1, 2).flatten(0, 1)
    about = frames.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    # On a CPU one frame at a time, so that what is made of it stays in the cache.
    each = frames.split(1 if x.device.type == "cpu" else len(frames))
    moments = [_moments(*part) for part in zip(each, about.split(len(each[0])), strict=True)]
    channels = torch.cat(moments, dim=1)
    grouped = channels.view(2, x.shape[0], x.shape[2], groups, -1)
    share = channels.new_full((grouped.shape[-1],), 1 / grouped.shape[-1])
    return pooled.reference(grouped.movedim(-1, 0), share)


def _moments(frames: Tensor, about: Tensor) -> Tensor:
    """Mean and variance (2, N, C) of frames (N, C, H, W), given almost the mean (N, C, 1, 1)."""
    apart = frames - about
    off = apart.mean((2, 3))
    return torch.stack((about[:, :, 0, 0] + off, apart.square_().mean((2, 3)) - off.square()))


@formula("group_norm:pooled")
def pooled(parts: Tensor, shares: Tensor) -> Tensor:
    """Mean and variance (2, ...) of a whole from those of its parts (parts, 2, ...), each a share (parts,) of it."""
    shares = shares.view(-1, *[1] * (parts.ndim - 2))
    mean, variance = parts.unbind(1)
    whole = (shares * mean).sum(0)
    return torch.stack((whole, (shares * (variance + (mean - whole).square())).sum(0)))


@formula("group_norm:normalise", mutates=["out"])
def normalise(
    x: Tensor, statistics: Tensor, weight: Tensor, bias: Tensor, eps: float, activate: bool, out: Tensor
) -> None:
    """GroupNorm of x (B, C, T, H, W) by statistics (2, B, T, groups), and SiLU where wanted, written into `out`.

    `out` (B, C, T, H + 2 rows, W + 2 columns) has a border on both sides, or none, in which that of x is repeated.
    """
    mean, variance = statistics
    channels = x.shape[1] // statistics.shape[-1]
    scale = weight * (variance + eps).rsqrt().repeat_interleave(channels, dim=2)
    shift = bias - mean.repeat_interleave(channels, dim=2) * scale
    scale, shift = (per_frame.transpose(1, 2)[..., None, None] for per_frame in (scale, shift))
    rows, columns = ((padded - length) // 2 for padded, length in zip(out.shape[3:], x.shape[3:], strict=True))
    inside = out[:, :, :, rows : rows + x.shape[3], columns : columns + x.shape[4]]
    torch.addcmul(shift, x, scale, out=inside)  # one pass over x, in its dtype
    if activate:
        F.silu(inside, inplace=True)
    repeat_borders(out, rows, columns)


def repeat_borders(frames: Tensor, rows: int, columns: int) -> None:
    """Fill rows and columns on both sides of frames (B, C, T, H, W) with what is beside them."""
    for axis, width in ((4, columns), (3, rows)):
        length = frames.shape[axis]
        if width:
            frames.narrow(axis, 0, width).copy_(frames.narrow(axis, width, 1))
            frames.narrow(axis, length - width, width).copy_(frames.narrow(axis, length - width - 1, 1))


def normalise_by(norm: nn.GroupNorm, x: Tensor, statistics: Tensor, out: Tensor, activate: bool) -> Tensor:
    """`normalise` with a layer's weights, wherever a host keeps these. Returns `out`."""
    weight, bias = norm.weight.to(x), norm.bias.to(x)
    normalise(x, statistics, weight, bias, norm.eps, activate, out)
    return out
