"""Tensors that are known by shape and dtype while their values are still on disk."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..quant import QUANT_DTYPE, Float8, QuantFormat

ROWS = 1024
"""Rows that are read at a time where a whole tensor is looked at."""


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
        """All values, memory-mapped where they are plain and the platform can."""
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
class QuantTensor(LazyTensor):
    """A tensor whose rows are quantised. `source` has their bytes."""

    source: LazyTensor
    quant: QuantFormat
    shape: tuple[int, ...]
    dtype: torch.dtype | None = torch.bfloat16

    def rows(self, start: int, stop: int) -> Tensor:
        quant, rows = self.quant_rows(start, stop)
        return quant.dequantize(rows, torch.float32).reshape(-1, *self.shape[1:])

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        rows = self.source.rows(start, stop)
        return self.quant, rows.reshape(len(rows), math.prod(self.source.shape[1:])).view(QUANT_DTYPE)


class RoundedTensor(LazyTensor):
    """A matrix that is rounded to 8-bit floating point as it is read.

    Its scale brings the largest value to the largest that there is in 8 bits. The first reading finds the scale, and
    reads all rows for that. Before, `quant` is the format without a scale.
    """

    def __init__(self, source: LazyTensor, dtype: torch.dtype):
        self.source, self.shape, self.dtype = source, source.shape, source.dtype
        self.quant = Float8(dtype)

    @cached_property
    def _scaled(self) -> Float8:
        """Rows are read in turn, of which only a few are in memory."""
        starts = range(0, self.shape[0], ROWS)
        parts = (self.source.rows(a, min(a + ROWS, self.shape[0])).abs().amax().item() for a in starts)
        return Float8(self.quant.dtype, max(parts) / torch.finfo(self.quant.dtype).max or None)

    def rows(self, start: int, stop: int) -> Tensor:
        quant, rows = self.quant_rows(start, stop)
        return quant.dequantize(rows, torch.float32)

    def quant_rows(self, start: int, stop: int) -> tuple[Float8, Tensor]:
        return self._scaled, self._scaled.quantize(self.source.rows(start, stop))


@dataclass(frozen=True)
class ReshapedTensor(LazyTensor):
    """A quantised tensor under another shape. Its rows are not those of the source, which is always read whole."""

    source: QuantTensor
    shape: tuple[int, ...]
    quant: None = None

    @property
    def dtype(self) -> torch.dtype | None:  # type: ignore[override]
        return self.source.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        return self.source.read().reshape(self.shape)[start:stop]


class Piece(NamedTuple):
    """Rows from start to stop of a tensor."""

    entry: LazyTensor
    start: int
    stop: int


class JoinedTensor(LazyTensor):
    """Rows of several tensors behind one another. They must have rows of one shape, or ValueError is raised."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = tuple(pieces)
        first, entries = pieces[0].entry, [piece.entry for piece in pieces]
        if any(entry.shape[1:] != first.shape[1:] for entry in entries):
            raise ValueError(f"rows of different shapes: {[list(entry.shape) for entry in entries]}")
        ends = [0]
        for piece in pieces:
            ends.append(ends[-1] + piece.stop - piece.start)
        self._ranges = tuple(pairwise(ends))
        self.shape = (ends[-1], *first.shape[1:])
        dtypes, quants = {entry.dtype for entry in entries}, {entry.quant for entry in entries}
        self.dtype = first.dtype if len(dtypes) == 1 or None in dtypes else torch.float32
        self.quant = first.quant if len(quants) == 1 else None
        self._dtype_of_rows = torch.float32 if quants != {None} else self.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        found = [entry.rows(a, b).to(self._dtype_of_rows) for entry, a, b in self._within(start, stop)]
        return found[0] if len(found) == 1 else torch.cat(found)

    def quant_rows(self, start: int, stop: int) -> tuple[QuantFormat, Tensor]:
        if self.quant is None:
            return super().quant_rows(start, stop)
        return self.quant, torch.cat([entry.quant_rows(a, b)[1] for entry, a, b in self._within(start, stop)])

    def _within(self, start: int, stop: int) -> list[Piece]:
        """The parts of the pieces that make up rows from start to stop; at least one, which may be empty."""
        within = [
            Piece(piece.entry, piece.start + max(start, a) - a, piece.start + min(stop, b) - a)
            for piece, (a, b) in zip(self._pieces, self._ranges, strict=True)
            if max(start, a) < min(stop, b)
        ]
        return within or [Piece(self._pieces[0].entry, 0, 0)]
