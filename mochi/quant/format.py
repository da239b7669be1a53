"""The interface of formats of quantised weights."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .rows import QuantRows

QUANT_DTYPE = torch.int8
"""The dtype that the bytes of quantised weights are held in. It keeps libraries from casting to a weight's dtype:
transformers' T5, for one, casts activations to the dtype of a weight, unless that is int8."""


class QuantFormat(ABC):
    """How a weight (rows, columns) is stored as bytes (rows, row_bytes), QUANT_DTYPE. Each row stands by itself.

    Formats that give the same bytes the same meaning are equal, so that rows of several tensors can be put together.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """What people call it, such as `Q4_0`."""

    @abstractmethod
    def row_bytes(self, columns: int) -> int:
        """Bytes of a row. Raises ValueError when the format has no rows of that length."""

    @abstractmethod
    def columns(self, row_bytes: int) -> int:
        """Values in a row of that many bytes. Raises ValueError when no row has that many."""

    @abstractmethod
    def dequantize(self, qweight: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes -> weight (rows, columns), rounded once, to `dtype`."""

    def takes_rows(self, qweight: Tensor, device: torch.device) -> bool:
        """Whether `matmul` takes QuantRows on that device."""
        return False

    def matmul(self, x: Tensor | QuantRows, qweight: Tensor, bias: Tensor | None) -> Tensor | None:
        """`x @ weight.T + bias` without dequantising the weight; None where the format or the device cannot.

        Args:
            x: (..., columns); rows that are quantised already only where `takes_rows` says so.
        """
        return None
