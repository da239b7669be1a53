"""The VAE over ranks: each has a strip of the picture, and all of the video's frames.

Every rank runs the whole network on its strip. What the network asks of its surroundings comes from the others: a
convolution needs the pixels next to the strip (its halo), a norm the statistics of whole frames. Nothing is computed
twice or blended, so the strips, put together, are what one device would have made.

All ranks call these functions together, with the same picture, under `torch.inference_mode()`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...errors import MochiError
from ...vae import Borders, Decoder, Encoder
from ...vae.norm import frame_statistics, normalise_by, pooled
from ...vae.stream import room_around
from .collectives import Peers, Pending, Traffic

ROWS, COLUMNS = 3, 4


class Strips(NamedTuple):
    """How a picture is cut, counted in latents: a strip begins and ends where a latent pixel does.

    Attributes:
        axis: 3 for strips of rows, 4 for strips of columns of (B, C, T, H, W).
        sizes: how many rows or columns each rank has.
    """

    axis: int
    sizes: tuple[int, ...]

    @property
    def ranks(self) -> int:
        return len(self.sizes)

    @property
    def chunk(self) -> int:
        """Latent frames to decode at a time: as many as there are strips.

        Activations then take the memory of one whole latent frame, half as much again as on one device, and the ranks,
        which meet at every convolution, meet less often.
        """
        return self.ranks

    def cut(self, x: Tensor, rank: int, unit: int = 1) -> Tensor:
        """A rank's strip (a view) of x, latents or, with `unit` pixels for each of them, frames."""
        return x.narrow(self.axis, unit * sum(self.sizes[:rank]), unit * self.sizes[rank])

    def join(self, strips: Mapping[int, Tensor]) -> Tensor:
        """The picture of all the strips, each under its rank."""
        return torch.cat([strips[rank] for rank in range(self.ranks)], dim=self.axis)


def plan_strips(height: int, width: int, ranks: int) -> Strips:
    """Cut latents of `height` x `width` for `ranks` ranks, or fewer where there are not so many rows or columns.

    The largest strip is made as small as can be, since all ranks wait for it; then the halos are.
    """
    plans = [
        (-(-length // ranks) * across, across, Strips(axis, _even(length, ranks)))
        for axis, length, across in ((COLUMNS, width, height), (ROWS, height, width))
    ]
    return min(plans, key=lambda plan: plan[:2])[2]


def _even(length: int, parts: int) -> tuple[int, ...]:
    return tuple(length // parts + (i < length % parts) for i in range(min(parts, length)))


class StripRanks:
    """The ranks that work on a picture: all of torch.distributed, or the first few where it has fewer strips.

    Each number of strips has its process group. All ranks make it when it is first needed, and keep it.

    Args:
        timeout: of the operations of such groups.
        machines: see Peers.

    Attributes:
        traffic: halos and statistics that this rank has sent.
    """

    def __init__(self, timeout: timedelta | None = None, machines: Sequence[int] = ()):
        self.rank, self.size, self.traffic = dist.get_rank(), dist.get_world_size(), Traffic()
        self._timeout, self._machines = timeout, machines
        self._groups: dict[int, Any] = {self.size: dist.group.WORLD}  # torch's placeholder in ranks outside a group

    def borders(self, strips: Strips) -> Borders:
        """The surroundings of this rank's strip. All ranks call it, those without a strip too."""
        if strips.ranks == 1:
            return Borders()
        if strips.ranks not in self._groups:
            self._groups[strips.ranks] = dist.new_group(list(range(strips.ranks)), timeout=self._timeout)
        if self.rank >= strips.ranks:  # a rank without a strip
            return Borders()
        return HaloBorders(strips, Peers(self._groups[strips.ranks], self.traffic, self._machines))


class FromOthers(NamedTuple):
    """The message of the other strips of a picture.

    Attributes:
        statistics: of whole frames; empty where none were asked for.
        halos: the rows or columns of each neighbour that lie next to this strip, in the order of the neighbours.
    """

    statistics: Tensor
    halos: list[Tensor]


class HaloBorders(Borders):
    """Surroundings in space of one strip: halos from its neighbours, and the edge of the picture elsewhere."""

    def __init__(self, strips: Strips, peers: Peers):
        self.axis, self.rank, self.ranks, self.peers = strips.axis, peers.rank, strips.ranks, peers
        self.fractions = [size / sum(strips.sizes) for size in strips.sizes]
        self._device_fractions: Tensor | None = None  # as a tensor on the device
        # The neighbours in order, and the end of this strip where each is: True the first row or column.
        neighbours = (self.rank - 1, True), (self.rank + 1, False)
        self.ends = {r: first for r, first in neighbours if 0 <= r < strips.ranks}

    def pad(self, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """As in Borders, with halos."""
        if not self._width(rows, columns):
            return super().pad(x, time, rows, columns)
        pending = self._exchange(None, x, rows, columns)
        padded = super().pad(x, time, rows, columns)  # while they travel
        for end, halo in zip(self._ends(padded, rows, columns), pending.wait().halos, strict=True):
            across = (0, columns) if self.axis == ROWS else (rows, 0)
            end.copy_(super().pad(halo, time, *across))
        return padded

    def norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """As in Borders, with the statistics of whole frames."""
        statistics = self._exchange(frame_statistics(x, norm.num_groups), x, 0, 0).wait().statistics
        return normalise_by(norm, x, statistics, room_around(x, 0, 0, 0), activate=False)

    def activate(self, norm: nn.GroupNorm, x: Tensor, time: int, rows: int, columns: int) -> Tensor:
        """As in Borders. Halos travel with the statistics, before the norm, which the receiver applies to them."""
        pending = self._exchange(frame_statistics(x, norm.num_groups), x, rows, columns)
        padded = room_around(x, time, rows, columns)
        frames = padded[:, :, time:]
        statistics, halos = pending.wait()
        normalise_by(norm, x, statistics, frames, activate=True)
        for end, halo in zip(self._ends(frames, rows, columns), halos, strict=True):
            normalise_by(norm, halo, statistics, end, activate=True)
        return padded

    def _ends(self, padded: Tensor, rows: int, columns: int) -> Iterator[Tensor]:
        """The places of the neighbours' halos in a padded strip; none where it has no border along the cut."""
        width = self._width(rows, columns)
        return (_end(padded, self.axis, first, width) for first in self.ends.values() if width)

    def _exchange(self, statistics: Tensor | None, x: Tensor, rows: int, columns: int) -> Pending[FromOthers]:
        """Start to send statistics to all and the ends of x to the neighbours, in one message for each.

        All-to-all rather than send and receive, and one message rather than two: the cost is in how often ranks meet.
        """
        width = self._width(rows, columns)
        news = x.new_empty(0) if statistics is None else statistics.view(x.dtype).flatten()
        halos = {r: _end(x, self.axis, first, width).movedim(1, -1) for r, first in self.ends.items() if width}
        message = {r: [news, halos[r].flatten()] if r in halos else [news] for r in range(self.ranks)}
        message[self.rank] = []
        sizes = [sum(part.numel() for part in message[r]) for r in range(self.ranks)]
        leaving = torch.cat([part for r in range(self.ranks) for part in message[r]])

        def read(arrived: Tensor) -> FromOthers:
            messages = arrived.split(sizes)
            theirs = [messages[r][news.numel() :].view(halos[r].shape).movedim(-1, 1) for r in halos]
            if statistics is None:
                return FromOthers(news, theirs)
            parts = [news if r == self.rank else messages[r][: news.numel()] for r in range(self.ranks)]
            parts = torch.stack(parts).view(statistics.dtype).view(-1, *statistics.shape)
            return FromOthers(self._whole(parts), theirs)

        return self.peers.all_to_all(leaving, sizes, sizes).then(read)

    def _width(self, rows: int, columns: int) -> int:
        """The padding at the ends of the strip."""
        return rows if self.axis == ROWS else columns

    def _whole(self, parts: Tensor) -> Tensor:
        """Statistics of whole frames from those of all strips (ranks, 2, B, T, groups)."""
        if self._device_fractions is None:  # filled on the device: numbers from the host would make it wait
            self._device_fractions = torch.stack([parts.new_full((), fraction) for fraction in self.fractions])
        return pooled(parts, self._device_fractions)


def _end(x: Tensor, axis: int, first: bool, width: int) -> Tensor:
    return x.narrow(axis, 0 if first else x.shape[axis] - width, width)


def decode_strips(decoder: Decoder, z: Tensor, ranks: StripRanks, chunk: int = 1) -> Iterator[Tensor]:
    """This rank's strip (B, 3, F, H, W) of the frames, of `chunk` latent frames at a time, as they are ready.

    A rank beyond those of `plan_strips` yields nothing. All ranks take the same number of chunks, or the others wait.

    Args:
        z: whole latents (B, 12, T, h, w) of any dtype, on any device. Strips are where the decoder is.
    """
    height, width = z.shape[3:]
    strips = plan_strips(height, width, ranks.size)
    borders = ranks.borders(strips)
    if ranks.rank < strips.ranks:
        weight = decoder.output_proj.weight
        yield from decoder.stream(strips.cut(z, ranks.rank).to(weight), chunk, borders)


def encode_strip(
    encoder: Encoder, video: Tensor, ranks: StripRanks, report: Callable[[int, int], None] | None = None
) -> Tensor | None:
    """This rank's strip (B, 12, T, h, w) of the mean latents; None for a rank beyond those of `plan_strips`.

    Args:
        video: whole frames (B, 3, F, H, W) in -1 to 1, of any dtype, on any device.
        report: see Encoder.in_pieces.

    Raises MochiError on a height or width that latents do not divide.
    """
    unit = math.prod(encoder.config.spatial)
    height, width = video.shape[3:]
    if height % unit or width % unit or not height * width:
        raise MochiError(f"frames of {width} x {height} cannot be encoded: both must be multiples of {unit}")
    strips = plan_strips(height // unit, width // unit, ranks.size)
    borders = ranks.borders(strips)
    if ranks.rank >= strips.ranks:
        return None
    mine = strips.cut(video, ranks.rank, unit).to(encoder.output_proj.weight)
    return encoder.in_pieces(mine, strips.chunk, borders, report).mean
