"""SiLU times gate in one launch; the formula is in mochi/dit/formulas.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .float8 import empty_rows, quantized

BLOCK = 2048
"""Columns of a program that takes no whole row."""


def swiglu(packed: Tensor) -> Tensor:
    packed, width = packed.contiguous(), packed.shape[-1] // 2
    out = torch.empty(*packed.shape[:-1], width, dtype=packed.dtype, device=packed.device)
    if out.numel():
        block = min(BLOCK, triton.next_power_of_2(width))
        grid = (out.numel() // width, triton.cdiv(width, block))
        _swiglu[grid](packed, out, WIDTH=width, BLOCK=block, num_warps=min(max(block // 512, 1), 4))
    return out


def swiglu_rows(packed: Tensor) -> tuple[Tensor, Tensor]:
    packed, width = packed.contiguous(), packed.shape[-1] // 2
    values, scales = empty_rows(torch.Size((*packed.shape[:-1], width)), packed.device)
    if scales.numel():
        block = triton.next_power_of_2(width)
        options = {"WIDTH": width, "BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}
        _swiglu_rows[(scales.numel(),)](packed, values, scales, **options)
    return values, scales


@triton.jit
def _swiglu(packed, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < WIDTH
    tl.store(out + row * WIDTH + column, _product(packed, row, column, here, WIDTH), here)


@triton.jit
def _swiglu_rows(packed, values, scales, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """A program takes a whole row, since the row's scale is that of its largest value."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < WIDTH
    value = _product(packed, row, column, here, WIDTH).to(packed.dtype.element_ty)  # as if it had been read back
    value, scale = quantized(value.to(tl.float32))
    tl.store(values + row * WIDTH + column, value.to(values.dtype.element_ty), here)
    tl.store(scales + row, scale)


@triton.jit
def _product(packed, row, column, here, WIDTH: tl.constexpr):
    a = tl.load(packed + 2 * row * WIDTH + column, here, 0.0).to(tl.float32)
    b = tl.load(packed + (2 * row + 1) * WIDTH + column, here, 0.0).to(tl.float32)
    return a / (1 + tl.exp(-a)) * b
