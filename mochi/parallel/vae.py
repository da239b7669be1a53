"""The VAE over ranks: each has a strip of the picture, and all of the video's frames.

Every rank runs the whole network on its strip. What the network asks of its surroundings comes from the others: a
convolution needs the pixels next to the strip, a norm the statistics of whole frames. Nothing is computed twice or
blended, so the strips, put together, are what one device would have made.

All ranks call these functions together, with the same picture, under `torch.inference_mode()`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import MochiError
from ..vae import Borders, Decoder, Encoder

ROWS, COLUMNS = 3, 4


class Strips(NamedTuple):
    """How a picture is cut: along `axis` (3 rows, 4 columns) of (B, C, T, H, W), `sizes` of them for each rank.

    Counted in latents: whatever a strip grows to, it begins and ends where a latent pixel does.
    """

    axis: int
    sizes: tuple[int, ...]

    @property
    def ranks(self) -> int:
        return len(self.sizes)

    def cut(self, x: Tensor, rank: int, unit: int = 1) -> Tensor:
        """A rank's strip (a view) of x, latents or, with `unit` pixels for each of them, frames."""
        return x.narrow(self.axis, unit * sum(self.sizes[:rank]), unit * self.sizes[rank])

    def join(self, strips: Mapping[int, Tensor]) -> Tensor:
        """The picture of all the strips, each under its rank."""
        return torch.cat([strips[rank] for rank in range(self.ranks)], dim=self.axis)


def plan_strips(height: int, width: int, ranks: int) -> Strips:
    """Cut latents of `height` x `width` for `ranks` ranks, or fewer where there are not so many rows or columns.

    The largest strip is what everybody waits for, so it is made small; then the borders are.
    """
    plans = [
        (-(-length // ranks) * across, across, Strips(axis, _even(length, ranks)))
        for axis, length, across in ((COLUMNS, width, height), (ROWS, height, width))
    ]
    return min(plans, key=lambda plan: plan[:2])[2]


def _even(length: int, parts: int) -> tuple[int, ...]:
    return tuple(length // parts + (i < length % parts) for i in range(min(parts, length)))


class StripRanks:
    """All ranks of torch.distributed, of which the first few work where a picture is cut for no more.

    A number of ranks gets its process group when it is first needed; all ranks make it, and keep it.
    timeout: of the operations of such groups.
    """

    def __init__(self, timeout: timedelta | None = None):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._timeout = timeout
        self._groups = {self.size: dist.group.WORLD}

    def borders(self, strips: Strips) -> Borders:
        """What surrounds this rank's strip. Called by all ranks, those without a strip too."""
        if strips.ranks == 1:
            return Borders()
        if strips.ranks not in self._groups:
            self._groups[strips.ranks] = dist.new_group(list(range(strips.ranks)), timeout=self._timeout)
        return StripBorders(strips, self.rank, self._groups[strips.ranks])


class StripBorders(Borders):
    """Surroundings in space of one strip: the strips of its neighbours, and the edge of the picture elsewhere."""

    def __init__(self, strips: Strips, rank: int, group: dist.ProcessGroup):
        self.axis, self.group, self.ranks = strips.axis, group, strips.ranks
        self.shares = [size / sum(strips.sizes) for size in strips.sizes]
        # Which end of the strip a neighbour is at: 0 the first row or column, -1 the last.
        self.neighbours = {end: r for end, r in ((0, rank - 1), (-1, rank + 1)) if 0 <= r < strips.ranks}

    def pad(self, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        width = rows if self.axis == ROWS else columns
        if not width:
            return super().pad(x, time, rows, columns)
        arriving, requests = self._exchange(x, width)
        padded = super().pad(x, time, rows, columns)  # while the borders travel
        for request in requests:
            request.wait()
        along = (0, columns) if self.axis == ROWS else (rows, 0)
        for end, border in arriving.items():
            _end(padded, self.axis, end, width).copy_(super().pad(border, time, *along))
        return padded

    def _exchange(self, x: Tensor, width: int) -> tuple[dict[int, Tensor], list[dist.Work]]:
        """Start to send x's borders to the neighbours and to receive theirs."""
        arriving, operations = {}, []
        for end, neighbour in self.neighbours.items():
            leaving = _end(x, self.axis, end, width).movedim(1, -1).contiguous()
            buffer = torch.empty_like(leaving)
            arriving[end] = buffer.movedim(-1, 1)
            operations += [
                dist.P2POp(dist.isend, leaving, neighbour, self.group),
                dist.P2POp(dist.irecv, buffer, neighbour, self.group),
            ]
        return arriving, dist.batch_isend_irecv(operations)

    def norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        statistics = strip_statistics(x, norm.num_groups)
        gathered = [torch.empty_like(statistics) for _ in range(self.ranks)]
        dist.all_gather(gathered, statistics, self.group)
        shares = statistics.new_tensor(self.shares)[:, None, None, None]
        mean, variance = pooled(*torch.stack(gathered, dim=1), shares, dim=0)
        return normalised(norm, x, mean, variance)


def _end(x: Tensor, axis: int, end: int, width: int) -> Tensor:
    return x.narrow(axis, 0 if end == 0 else x.shape[axis] - width, width)


def strip_statistics(x: Tensor, groups: int) -> Tensor:
    """Mean and variance (2, B, T, groups) of each frame and group of channels of x (B, C, T, H, W), at least float32.

    In two passes, first of channels: torch's own group norm, in one pass, is a hundred times less accurate on a CPU.
    """
    frames = x.transpose(1, 2).flatten(0, 1)
    mean = frames.mean((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    # A frame at a time, for what is made of it stays in the cache.
    variance = [(frame - centre).square_().mean((1, 2)) for frame, centre in zip(frames, mean, strict=True)]
    channels = torch.stack((mean[:, :, 0, 0], torch.stack(variance)))
    grouped = channels.view(2, x.shape[0], x.shape[2], groups, -1)
    return torch.stack(pooled(*grouped, 1 / grouped.shape[-1], dim=-1))


def pooled(mean: Tensor, variance: Tensor, share: Tensor | float, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of a whole from those of its parts along `dim`, each a `share` of it."""
    whole = (share * mean).sum(dim, keepdim=True)
    return whole.squeeze(dim), (share * (variance + (mean - whole).square())).sum(dim)


def normalised(norm: nn.GroupNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """A GroupNorm of x (B, C, T, H, W) with statistics (B, T, groups) from elsewhere: one pass over x, in its dtype."""
    channels = x.shape[1] // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(channels, dim=2)
    shift = norm.bias - mean.repeat_interleave(channels, dim=2) * scale
    scale, shift = (per_frame.transpose(1, 2)[..., None, None] for per_frame in (scale, shift))
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x))


def decode_strips(decoder: Decoder, z: Tensor, ranks: StripRanks, chunk: int = 1) -> Iterator[Tensor]:
    """This rank's strip (B, 3, F, H, W) of the frames, of `chunk` latent frames at a time, as they are ready.

    z: whole latents (B, 12, T, h, w) of any dtype, on any device; strips are where the decoder is. A rank beyond
    those of `plan_strips` yields nothing. All ranks take the same number of chunks, or the others wait.
    """
    strips = plan_strips(*z.shape[3:], ranks.size)
    borders = ranks.borders(strips)
    if ranks.rank < strips.ranks:
        weight = decoder.output_proj.weight
        yield from decoder.stream(strips.cut(z, ranks.rank).to(weight), chunk, borders)


def encode_strip(encoder: Encoder, video: Tensor, ranks: StripRanks) -> Tensor | None:
    """This rank's strip (B, 12, T, h, w) of the mean latents; None for a rank beyond those of `plan_strips`.

    video: whole frames (B, 3, F, H, W) in -1 to 1, of any dtype, on any device. Raises MochiError on a height or
    width that latents do not divide.
    """
    unit = math.prod(encoder.config.spatial)
    height, width = video.shape[3:]
    if height % unit or width % unit or not height * width:
        raise MochiError(f"frames of {width} x {height} cannot be encoded: both must be multiples of {unit}")
    strips = plan_strips(height // unit, width // unit, ranks.size)
    borders = ranks.borders(strips)
    if ranks.rank >= strips.ranks:
        return None
    return encoder(strips.cut(video, ranks.rank, unit).to(encoder.output_proj.weight), borders).mean
