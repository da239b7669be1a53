"""8-bit floating point, with or without one scale for the whole weight."""

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
    """Numbers of 8 bits.

    Attributes:
        dtype: one of FLOAT8.
        scale: what the numbers are multiplied by.
        input_scale: what activations are divided by before they are rounded to float8. None: what the largest value
            of each row needs, or the largest of all where the device takes only one scale.
        fast: whether products are computed in float8 too, where the device can. It rounds the activations, each value
            by about 2.5 %.
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

    def dequantize(self, qweight: Tensor, dtype: torch.dtype) -> Tensor:
        if self.scale is None:
            return qweight.view(self.dtype).to(dtype)
        return dequantize_scaled(qweight, self.dtype, self.scale, dtype)

    def quantize(self, weight: Tensor) -> Tensor:
        """Weight (rows, columns) -> bytes. Values are divided by the scale, rounded, and cut off at the largest one."""
        most = torch.finfo(self.dtype).max
        scaled = weight if self.scale is None else weight.float() / self.scale
        return scaled.clamp(-most, most).to(self.dtype).view(QUANT_DTYPE)

    def takes_rows(self, qweight: Tensor, device: torch.device) -> bool:
        return self.input_scale is None and has_row_products(device) and self._multiplies(qweight, device)

    def matmul(self, x: Tensor | QuantRows, qweight: Tensor, bias: Tensor | None) -> Tensor | None:
        if isinstance(x, QuantRows):
            return self._product(*x, qweight, bias, x.dtype)
        if not x.numel() or not self._multiplies(qweight, x.device):
            return None
        if x.dtype != torch.float16 and self.takes_rows(qweight, x.device):  # products of rows are in bfloat16
            return self._product(*quantize_rows(x), qweight, bias, x.dtype)
        if self.input_scale is None:
            scale = (torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32) / MOST).clamp_(min=TINY)
        else:
            scale = self._constant(self.input_scale, (), x.device)
        return self._product(quantize(x, scale), scale, qweight, bias, x.dtype)

    def _product(self, x: Tensor, scale: Tensor, qweight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        shape = (1, len(qweight)) if scale.dim() else ()
        weight_scale = self._constant(1.0 if self.scale is None else self.scale, shape, x.device)
        return product(x, scale, qweight.view(self.dtype), weight_scale, bias, dtype)

    def _multiplies(self, qweight: Tensor, device: torch.device) -> bool:
        if not self.fast or self.dtype != torch.float8_e4m3fn or not has_products(device):
            return False
        return all(size % 16 == 0 for size in qweight.shape)  # the shapes that the kernels take

    def _constant(self, value: float, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float32 tensor of one value, which is made when it is first asked for."""
        key = value, shape, device
        if key not in self._constants:
            self._constants[key] = torch.full(shape, value, device=device, dtype=torch.float32)
        return self._constants[key]


@formula("float8:dequantize_scaled")
def dequantize_scaled(qweight: Tensor, kind: torch.dtype, scale: float, dtype: torch.dtype) -> Tensor:
    """Bytes of a dtype of FLOAT8 -> its numbers times the scale, rounded once, to `dtype`."""
    return qweight.view(kind).to(dtype).mul_(scale)
