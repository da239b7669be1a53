"""What a format of packed weights can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .rows import QuantRows

QUANT_DTYPE = torch.int8
"""The dtype that packed bytes are held in. Libraries know by it that a weight is no number to cast to: transformers'
T5, for one, casts activations to the dtype of a weight, unless that is int8."""


class QuantFormat(ABC):
    """How the rows of a weight (rows, columns) are packed into bytes; each row stands by itself.

    Packings of equal bytes and equal meaning are equal, so that rows of several tensors can be put together.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """What people call it, such as `Q4_0`."""

    @abstractmethod
    def row_bytes(self, columns: int) -> int:
        """Bytes of a row. Raises ValueError when a row of that length cannot be packed so."""

    @abstractmethod
    def columns(self, row_bytes: int) -> int:
        """Values in a row of that many bytes. Raises ValueError when no row has that size."""

    @abstractmethod
    def dequantize(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes (rows, row_bytes), QUANT_DTYPE -> weight (rows, columns), rounded once, to `dtype`."""

    def takes_rows(self, packed: Tensor, device: torch.device) -> bool:
        """Whether `matmul` takes QuantRows on that device."""
        return False

    def matmul(self, x: Tensor | QuantRows, packed: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x @ weight.T + bias` computed on the packed weight, or None where that is not to be.

        x: (..., columns), or what stands for it, where `takes_rows` says so.
        """
        return None
