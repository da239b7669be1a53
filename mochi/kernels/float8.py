"""Rounding to float8 and back, one launch each; the formulas are in mochi/quant/rows.py and mochi/quant/float8.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = tl.constexpr(torch.finfo(torch.float8_e4m3fn).max)
TINY = tl.constexpr(torch.finfo(torch.float32).tiny)

BLOCK = 4096
"""Values of a program that takes no whole row."""


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    values, scales = empty_rows(x.shape, x.device)
    block = triton.next_power_of_2(x.shape[-1])
    if scales.numel():
        warps = 4 if block < 4096 else 8
        _quantize_rows[(scales.numel(),)](x, values, scales, x.shape[-1], block, num_warps=warps)
    return values, scales


def empty_rows(shape: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Memory for rows (..., columns) in float8 and for their scales (..., 1)."""
    values = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
    return values, torch.empty(*shape[:-1], 1, dtype=torch.float32, device=device)


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    x = x.contiguous()
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    if count := x.numel():
        _quantize[(triton.cdiv(count, BLOCK),)](x, scale, values, count, BLOCK, num_warps=8)
    return values


def dequantize_scaled(qweight: Tensor, kind: torch.dtype, scale: float, dtype: torch.dtype) -> Tensor:
    weight = torch.empty(qweight.shape, dtype=dtype, device=qweight.device)
    if count := qweight.numel():
        is_e5m2, bits = kind == torch.float8_e5m2, qweight.contiguous().view(torch.uint8)
        _dequantize[(triton.cdiv(count, BLOCK),)](bits, weight, scale, count, is_e5m2, BLOCK, num_warps=8)
    return weight


@triton.jit
def quantized(row):
    """A row in float32, padded with zeros -> the row over its scale, not yet rounded, and the scale."""
    scale = tl.maximum(tl.max(tl.abs(row), 0) * (1 / MOST), TINY)
    return row * tl.div_rn(1.0, scale), scale


@triton.jit
def _quantize_rows(x, values, scales, columns, BLOCK: tl.constexpr):
    """A program takes a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < columns
    value, scale = quantized(tl.load(x + row * columns + column, mask=here, other=0).to(tl.float32))
    tl.store(values + row * columns + column, value.to(values.dtype.element_ty), mask=here)
    tl.store(scales + row, scale)


@triton.jit
def _quantize(x, scale, values, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scaled = tl.load(x + i, mask=i < count).to(tl.float32) * tl.div_rn(1.0, tl.load(scale))
    scaled = tl.clamp(scaled, -MOST, MOST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(values + i, scaled.to(values.dtype.element_ty), mask=i < count)


@triton.jit
def _dequantize(qweight, weight, scale, count, IS_E5M2: tl.constexpr, BLOCK: tl.constexpr):
    """Goes by way of float16, whose bits contain those of float8, since not all devices know float8."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    byte = tl.load(qweight + i, mask=i < count).to(tl.int32)
    if IS_E5M2:
        value = (byte << 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        half = ((byte & 128) << 8 | (byte & 127) << 7).to(tl.int16).to(tl.float16, bitcast=True)
        value = tl.where(byte & 127 == 127, float("nan"), half.to(tl.float32) * 256)
    tl.store(weight + i, (value * scale).to(weight.dtype.element_ty), mask=i < count)
