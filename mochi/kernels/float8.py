"""float8 in one launch each: activations rounded to it, and weights with a scale unpacked from it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quant.rows import MOST, TINY

_MOST, _TINY = tl.constexpr(MOST), tl.constexpr(TINY)
BLOCK = 4096
"""How many values a program takes, where they are not a row."""


@triton.jit
def quantized(row):
    """A row in float32, zeros behind its values -> what stands for it in float8, not rounded yet, and its scale."""
    scale = tl.maximum(tl.max(tl.abs(row), 0) * (1 / _MOST), _TINY)
    return row * tl.div_rn(1.0, scale), scale


@triton.jit
def quantise_rows_kernel(x, values, scales, columns, block: tl.constexpr):
    """A row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < columns
    value, scale = quantized(tl.load(x + row * columns + column, mask=inside, other=0).to(tl.float32))
    tl.store(values + row * columns + column, value.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The reference is in mochi/quant/rows.py."""
    x = x.contiguous()
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scales = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(x.shape[-1])
    if scales.numel():
        quantise_rows_kernel[(scales.numel(),)](
            x, values, scales, x.shape[-1], block, num_warps=4 if block < 4096 else 8
        )
    return values, scales


@triton.jit
def quantise_kernel(x, scale, values, count, block: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    scaled = tl.load(x + i, mask=i < count).to(tl.float32) * tl.div_rn(1.0, tl.load(scale))
    scaled = tl.clamp(scaled, -_MOST, _MOST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(values + i, scaled.to(values.dtype.element_ty), mask=i < count)


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """The reference is in mochi/quant/rows.py."""
    x = x.contiguous()
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    if x.numel():
        quantise_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, scale, values, x.numel(), BLOCK, num_warps=8)
    return values


@triton.jit
def unpack_kernel(packed, weight, scale, count, is_e5m2: tl.constexpr, block: tl.constexpr):
    """By way of float16, whose bits those of float8 are a part of: not all devices know float8."""
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    byte = tl.load(packed + i, mask=i < count).to(tl.int32)
    if is_e5m2:
        value = (byte << 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        half = ((byte & 128) << 8 | (byte & 127) << 7).to(tl.int16).to(tl.float16, bitcast=True)
        value = tl.where(byte & 127 == 127, float("nan"), half.to(tl.float32) * 256)
    tl.store(weight + i, (value * scale).to(weight.dtype.element_ty), mask=i < count)


def dequantize_scaled(packed: Tensor, kind: torch.dtype, scale: float, dtype: torch.dtype) -> Tensor:
    """The reference is in mochi/quant/float8.py."""
    weight = torch.empty(packed.shape, dtype=dtype, device=packed.device)
    is_e5m2, count = kind == torch.float8_e5m2, packed.numel()
    if count:
        bits = packed.contiguous().view(torch.uint8)
        unpack_kernel[(triton.cdiv(count, BLOCK),)](bits, weight, scale, count, is_e5m2, BLOCK, num_warps=8)
    return weight
