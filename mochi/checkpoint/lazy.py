"""Tensors that are known by shape and dtype while their values are still on disk."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..quant import QUANT_DTYPE, Float8, QuantFormat

ROWS = 1024
"""Rows that are read at a time where a whole tensor is looked at."""


@dataclass(frozen=True)
class LazyTensor(ABC):
    """One tensor whose values are on disk.

    Attributes:
        shape: of its values.
        dtype: the dtype that the values are stored in, or dequantised to where nothing else is asked for. None where
            weights cannot have it.
        quant: the format of quantised values, None where they are plain numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    quant: QuantFormat | None

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Some of the values, `read()[start:stop]`; the others are not touched. Quantised ones come in float32."""

    def read(self) -> Tensor:
        """All values, memory-mapped where they are plain and the platform can.

        They are not to be written into: whoever reads them again, for another model, gets the same memory.
        """
        return self.rows(0, self.shape[0])

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        """The format of quantised values, and the bytes of some rows, (rows, bytes of a row) QUANT_DTYPE."""
        raise TypeError("the values are not quantised")


LazyTensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class StoredTensor(LazyTensor):
    """A tensor as a file has it.

    Attributes:
        slice: gives the rows from start to stop.
        whole: gives all values, also of a scalar.
    """

    quant: None = field(default=None, init=False)
    slice: Callable[[int, int], Tensor]
    whole: Callable[[], Tensor]

    def rows(self, start: int, stop: int) -> Tensor:
        return self.whole() if (start, stop) == (0, self.shape[0]) else self.slice(start, stop)

    def read(self) -> Tensor:
        return self.whole()


@dataclass(frozen=True)
class QuantTensor(LazyTensor):
    """A tensor whose rows are quantised. `source` has their bytes."""

    quant: QuantFormat
    source: LazyTensor

    def rows(self, start: int, stop: int) -> Tensor:
        quant, rows = self.quant_rows(start, stop)
        return quant.dequantize(rows, torch.float32).reshape(-1, *self.shape[1:])

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        rows = self.source.rows(start, stop)
        return self.quant, rows.reshape(len(rows), math.prod(self.source.shape[1:])).view(QUANT_DTYPE)


@dataclass(frozen=True)
class RoundedTensor(QuantTensor):
    """A matrix, `source`, that is rounded to 8-bit floating point as it is read.

    Its scale brings the largest value to the largest that there is in 8 bits. The first reading finds the scale, and
    reads all rows for that. `quant` is the format without a scale.
    """

    quant: Float8

    @cached_property
    def _scaled(self) -> Float8:
        """The format with its scale. Rows are read in turn, of which only a few are in memory."""
        starts = range(0, self.shape[0], ROWS)
        parts = (self.source.rows(a, min(a + ROWS, self.shape[0])).abs().amax().item() for a in starts)
        return Float8(self.quant.dtype, max(parts) / torch.finfo(self.quant.dtype).max or None)

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        return self._scaled, self._scaled.quantize(self.source.rows(start, stop))


def rounded(source: LazyTensor, dtype: torch.dtype) -> RoundedTensor:
    """A matrix as it is in one of the two 8-bit floating point dtypes."""
    return RoundedTensor(source.shape, source.dtype, Float8(dtype), source)


@dataclass(frozen=True)
class ReshapedTensor(LazyTensor):
    """A quantised tensor under another shape. Its rows are not those of the source, which is always read whole."""

    quant: None = field(default=None, init=False)
    source: LazyTensor

    def rows(self, start: int, stop: int) -> Tensor:
        return self.source.read().reshape(self.shape)[start:stop]


class Piece(NamedTuple):
    """Rows from start to stop of a tensor."""

    entry: LazyTensor
    start: int
    stop: int


@dataclass(frozen=True)
class JoinedTensor(LazyTensor):
    """Rows of several tensors, one after the other."""

    pieces: tuple[Piece, ...]

    def rows(self, start: int, stop: int) -> Tensor:
        plain = all(piece.entry.quant is None for piece in self.pieces)
        found = [
            entry.rows(a, b).to(self.dtype if plain else torch.float32) for entry, a, b in self._within(start, stop)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        if self.quant is None:
            return super().quant_rows(start, stop)
        return self.quant, torch.cat([entry.quant_rows(a, b)[1] for entry, a, b in self._within(start, stop)])

    def _within(self, start: int, stop: int) -> list[Piece]:
        """The parts of the pieces that make up rows from start to stop; at least one, which may be empty."""
        found, first = [], 0
        for entry, a, b in self.pieces:
            low, high = max(start, first), min(stop, first + b - a)
            if low < high:
                found.append(Piece(entry, a + low - first, a + high - first))
            first += b - a
        return found or [Piece(self.pieces[0].entry, 0, 0)]


def joined(pieces: Sequence[Piece]) -> JoinedTensor:
    """Rows of several tensors as one tensor. Raises ValueError where they are of different shapes."""
    entries = [piece.entry for piece in pieces]
    if any(entry.shape[1:] != entries[0].shape[1:] for entry in entries):
        raise ValueError(f"rows of different shapes: {[list(entry.shape) for entry in entries]}")
    shape = (sum(piece.stop - piece.start for piece in pieces), *entries[0].shape[1:])
    dtypes, quants = {entry.dtype for entry in entries}, {entry.quant for entry in entries}
    dtype = entries[0].dtype if len(dtypes) == 1 or None in dtypes else torch.float32
    return JoinedTensor(shape, dtype, quants.pop() if len(quants) == 1 else None, tuple(pieces))
