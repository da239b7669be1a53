"""8-bit floating point, with or without one scale for the whole weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import PACKED, Packing

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Float8(Packing):
    """dtype: of FLOAT8. scale: what the weight is multiplied by.

    fast: whether products are computed in float8 too, where the device can. That rounds the activations: about 2.5 %
    of each value, and is not exact. input_scale: what they are divided by before, by default what their largest needs.
    """

    dtype: torch.dtype
    scale: float | None = None
    input_scale: float | None = None
    fast: bool = False

    @property
    def title(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return name if self.scale is None else f"scaled {name}"

    def row_bytes(self, columns: int) -> int:
        return columns

    def columns(self, row_bytes: int) -> int:
        return row_bytes

    def unpack(self, packed: Tensor, dtype: torch.dtype) -> Tensor:
        weight = packed.view(self.dtype).to(dtype)
        return weight if self.scale is None else weight.mul_(self.scale)

    def pack(self, weight: Tensor) -> Tensor:
        """Weight (rows, columns) -> bytes: each value over the scale, rounded, and cut off at the largest there is."""
        most = torch.finfo(self.dtype).max
        scaled = weight if self.scale is None else weight.float() / self.scale
        return scaled.clamp(-most, most).to(self.dtype).view(PACKED)

    def matmul(self, x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor | None:
        if not self.fast or self.dtype != torch.float8_e4m3fn or not _has_float8_products(x.device):
            return None
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[1] % 16 or packed.shape[0] % 16 or not len(rows):  # the shapes that the kernels take
            return None
        most = torch.finfo(self.dtype).max
        if self.input_scale is None:
            scale = (rows.abs().amax().float() / most).clamp(min=torch.finfo(torch.float32).tiny)
        else:
            scale = torch.full((), self.input_scale, device=x.device)
        quantised = (rows.float() / scale).clamp(-most, most).to(self.dtype)
        weight_scale = torch.full((), 1.0 if self.scale is None else self.scale, device=x.device)
        out = torch._scaled_mm(
            quantised,
            packed.view(self.dtype).t(),
            scale_a=scale,
            scale_b=weight_scale,
            out_dtype=torch.bfloat16 if x.dtype == torch.float32 else x.dtype,
        ).to(x.dtype)
        return (out if bias is None else out + bias).unflatten(0, x.shape[:-1])


def _has_float8_products(device: torch.device) -> bool:
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (8, 9)
    return device.type == "cpu" and hasattr(F, "scaled_mm")
