"""Activations in float8, each row with a scale of its own, and products with them."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import formula

MOST = torch.finfo(torch.float8_e4m3fn).max
TINY = torch.finfo(torch.float32).tiny


class QuantRows(NamedTuple):
    """Activations x (..., columns) as `values * scales`. Products with them are in bfloat16.

    Attributes:
        values: (..., columns) float8_e4m3fn. The largest of a row is 448.
        scales: (..., 1) float32.
    """

    values: Tensor
    scales: Tensor

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16


@formula("float8:quantize_rows")
def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., columns) -> values and scales of QuantRows, computed in float32."""
    scales = (x.abs().amax(-1, keepdim=True).float() * (1 / MOST)).clamp_(min=TINY)
    return (x.float() * scales.reciprocal()).to(torch.float8_e4m3fn), scales


@formula("float8:quantize")
def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """x over a scale () float32, rounded to float8_e4m3fn and cut off at its largest value."""
    return (x.float() * scale.reciprocal()).clamp_(-MOST, MOST).to(torch.float8_e4m3fn)


def has_products(device: torch.device) -> bool:
    """Whether the device multiplies matrices in float8, each with one scale."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (8, 9)
    return device.type == "cpu" and hasattr(torch.nn.functional, "scaled_mm")


def has_row_products(device: torch.device) -> bool:
    """Whether rows may have scales of their own in such a product: H100 and its kin take them in one launch."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device)[0] in (9, 10)
    return has_products(device)


def product(
    x: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`(x * scale) @ (weight * weight_scale).T + bias` in `dtype`, the product itself in half precision.

    Args:
        x: (..., columns) float8_e4m3fn.
        scale: () or, one for each row, (..., 1), float32.
        weight: (out, columns) float8_e4m3fn; both sizes are multiples of 16.
        weight_scale: () or, where rows have their own, (1, out), float32. Those products are in bfloat16 only.
    """
    rows, scale = x.reshape(-1, x.shape[-1]), scale.reshape(-1, 1)
    if not len(rows):
        return torch.empty(*x.shape[:-1], len(weight), dtype=dtype, device=x.device)
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    inside = bias if bias is not None and bias.dtype == half else None
    # torch has this operator under no public name before 2.10.
    multiply = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
    if weight_scale.dim() and x.device.type == "cpu":  # torch before 2.14 takes no scales of rows there
        one = scale.new_ones(())
        out = multiply(rows, weight.t(), one, one, out_dtype=torch.float32)
        out = out.mul_(scale).mul_(weight_scale)
        out = (out if inside is None else out.add_(inside)).to(half)
    else:
        out = multiply(rows, weight.t(), scale, weight_scale, inside, out_dtype=half, use_fast_accum=True)
    out = out.to(dtype).unflatten(0, x.shape[:-1])
    return out if bias is None or bias is inside else (out + bias).to(dtype)
