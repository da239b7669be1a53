"""8-bit floating point, with or without one scale for the whole weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..kernels import formula
from .format import QUANT_DTYPE, QuantFormat
from .rows import MOST, TINY, QuantRows, has_products, has_row_products, product, quantize, quantize_rows

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Float8(QuantFormat):
    """dtype: of FLOAT8. scale: what the weight is multiplied by.

    fast: whether products are computed in float8 too, where the device can. That rounds the activations: about 2.5 %
    of each value, and is not exact. input_scale: what they are divided by before, by default what the largest of each
    row needs, or of all rows where the device takes only one scale.
    """

    dtype: torch.dtype
    scale: float | None = None
    input_scale: float | None = None
    fast: bool = False
    _constants: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def title(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return name if self.scale is None else f"scaled {name}"

    def row_bytes(self, columns: int) -> int:
        return columns

    def columns(self, row_bytes: int) -> int:
        return row_bytes

    def dequantize(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        if self.scale is None:
            return packed.view(self.dtype).to(dtype)
        return dequantize_scaled(packed, self.dtype, self.scale, dtype)

    def pack(self, weight: Tensor) -> Tensor:
        """Weight (rows, columns) -> bytes: each value over the scale, rounded, and cut off at the largest there is."""
        most = torch.finfo(self.dtype).max
        scaled = weight if self.scale is None else weight.float() / self.scale
        return scaled.clamp(-most, most).to(self.dtype).view(QUANT_DTYPE)

    def takes_rows(self, packed: Tensor, device: torch.device) -> bool:
        return self.input_scale is None and has_row_products(device) and self._multiplies(packed, device)

    def matmul(self, x: Tensor | QuantRows, packed: Tensor, bias: Tensor | None) -> Tensor | None:
        if isinstance(x, QuantRows):
            return self._product(*x, packed, bias, x.dtype)
        if not x.numel() or not self._multiplies(packed, x.device):
            return None
        if x.dtype != torch.float16 and self.takes_rows(packed, x.device):  # of rows, products are in bfloat16
            return self._product(*quantize_rows(x), packed, bias, x.dtype)
        if self.input_scale is None:
            scale = (torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32) / MOST).clamp_(min=TINY)
        else:
            scale = self._constant(self.input_scale, (), x.device)
        return self._product(quantize(x, scale), scale, packed, bias, x.dtype)

    def _product(self, x: Tensor, scale: Tensor, packed: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        shape = (1, len(packed)) if scale.dim() else ()
        weight_scale = self._constant(1.0 if self.scale is None else self.scale, shape, x.device)
        return product(x, scale, packed.view(self.dtype), weight_scale, bias, dtype)

    def _multiplies(self, packed: Tensor, device: torch.device) -> bool:
        if not self.fast or self.dtype != torch.float8_e4m3fn or not has_products(device):
            return False
        return all(size % 16 == 0 for size in packed.shape)  # the shapes that the kernels take

    def _constant(self, value: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A tensor of one value, float32, made when it is first asked for."""
        key = value, shape, device
        if key not in self._constants:
            self._constants[key] = torch.full(shape, value, device=device, dtype=torch.float32)
        return self._constants[key]


@formula("float8:dequantize_scaled")
def dequantize_scaled(packed: Tensor, kind: torch.dtype, scale: float, dtype: torch.dtype) -> Tensor:
    """Bytes, QUANT_DTYPE, of one of FLOAT8 -> their values times the scale, rounded once, to `dtype`."""
    return packed.view(kind).to(dtype).mul_(scale)
