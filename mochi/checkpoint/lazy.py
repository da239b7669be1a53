"""Tensors that are known by shape and dtype while their values are still on disk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..quant import QUANT_DTYPE, Float8, QuantFormat

ROWS = 1024
"""That are read at a time where a whole tensor is looked at."""


class LazyTensor(ABC):
    """One tensor of a network.

    Attributes:
        shape: of its values. dtype: in which they are stored, None for one that weights cannot have.
        quant: how they are packed, None where they are plain numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    quant: QuantFormat | None

    @abstractmethod
    def rows(self, start: int, stop: int) -> Tensor:
        """Some of the values, `read()[start:stop]`; the others are not touched. Of a packed one in float32."""

    def read(self) -> Tensor:
        """All values, memory-mapped where they are plain and the platform can."""
        return self.rows(0, self.shape[0])

    def packed(self, start: int, stop: int) -> Tensor:
        """The bytes of some rows, (rows, bytes of a row) QUANT_DTYPE. Only of a packed one."""
        raise TypeError("the values are not packed")


@dataclass(frozen=True)
class StoredTensor(LazyTensor):
    """A tensor as it lies in a file. slice: gives rows from start to stop; whole: gives all, also of a scalar."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    slice: Callable[[int, int], Tensor]
    whole: Callable[[], Tensor]
    quant: None = None

    def rows(self, start: int, stop: int) -> Tensor:
        return self.whole() if (start, stop) == (0, self.shape[0]) else self.slice(start, stop)

    def read(self) -> Tensor:
        return self.whole()


@dataclass(frozen=True)
class Packed(LazyTensor):
    """A tensor whose rows are packed in the bytes of another. dtype: to unpack to where nothing else is asked for."""

    source: LazyTensor
    quant: QuantFormat
    shape: tuple[int, ...]
    dtype: torch.dtype | None = torch.bfloat16

    def rows(self, start: int, stop: int) -> Tensor:
        return self.quant.dequantize(self.packed(start, stop), torch.float32).reshape(-1, *self.shape[1:])

    def packed(self, start: int, stop: int) -> Tensor:
        rows = self.source.rows(start, stop)
        return rows.reshape(len(rows), math.prod(self.source.shape[1:])).view(QUANT_DTYPE)


class Rounded(LazyTensor):
    """A matrix that is rounded to 8-bit floating point as it is read, with a scale which brings its largest value to
    the largest there is. `find_scale` reads it all for that, and has to be called first."""

    def __init__(self, source: LazyTensor, dtype: torch.dtype):
        self.shape, self.dtype = source.shape, source.dtype
        self.quant = Float8(dtype)
        self._source = source

    def find_scale(self) -> Float8:
        """The packing with its scale. Rows are read in turn, of which only a few are in memory."""
        starts = range(0, self.shape[0], ROWS)
        parts = (self._source.rows(a, min(a + ROWS, self.shape[0])).abs().amax().item() for a in starts)
        self.quant = Float8(self.quant.dtype, max(parts) / torch.finfo(self.quant.dtype).max or None)
        return self.quant

    def rows(self, start: int, stop: int) -> Tensor:
        return self.quant.dequantize(self.packed(start, stop), torch.float32)

    def packed(self, start: int, stop: int) -> Tensor:
        return self.quant.quantize(self._source.rows(start, stop))


@dataclass(frozen=True)
class Reshaped(LazyTensor):
    """A tensor whose rows are not those of the packed one that it is stored as, so that it is read as a whole."""

    source: Packed
    shape: tuple[int, ...]
    quant: None = None

    @property
    def dtype(self) -> torch.dtype | None:
        return self.source.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.source.read().reshape(self.shape)[start:stop]


class Piece(NamedTuple):
    """Rows from start to stop of a tensor."""

    entry: LazyTensor
    start: int
    stop: int


class Joined(LazyTensor):
    """Rows of several tensors behind one another, in one tensor. Those must have rows of one shape (ValueError)."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = tuple(pieces)
        first = self._pieces[0].entry
        if any(piece.entry.shape[1:] != first.shape[1:] for piece in self._pieces):
            raise ValueError(f"rows of different shapes: {[list(piece.entry.shape) for piece in self._pieces]}")
        ends = [0]
        for piece in self._pieces:
            ends.append(ends[-1] + piece.stop - piece.start)
        self._ranges = tuple(pairwise(ends))
        self.shape = (ends[-1], *first.shape[1:])
        dtypes = {piece.entry.dtype for piece in self._pieces}
        self.dtype = first.dtype if len(dtypes) == 1 or None in dtypes else torch.float32
        quants = {piece.entry.quant for piece in self._pieces}
        self.quant = first.quant if len(quants) == 1 else None

    def rows(self, start: int, stop: int) -> Tensor:
        found = [entry.rows(a, b).to(self._plain) for entry, a, b in self._within(start, stop)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def packed(self, start: int, stop: int) -> Tensor:
        if self.quant is None:
            return super().packed(start, stop)
        return torch.cat([entry.packed(a, b) for entry, a, b in self._within(start, stop)])

    @property
    def _plain(self) -> torch.dtype | None:
        return torch.float32 if any(piece.entry.quant for piece in self._pieces) else self.dtype

    def _within(self, start: int, stop: int) -> list[Piece]:
        """The parts of the pieces that make up rows from start to stop; at least one, which may be empty."""
        within = [
            Piece(piece.entry, piece.start + max(start, a) - a, piece.start + min(stop, b) - a)
            for piece, (a, b) in zip(self._pieces, self._ranges, strict=True)
            if max(start, a) < min(stop, b)
        ]
        return within or [Piece(self._pieces[0].entry, 0, 0)]
