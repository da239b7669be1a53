"""SiLU times gate in one launch; the formula is in mochi/dit/layers.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
"""Columns of a program."""


def swiglu(packed: Tensor) -> Tensor:
    packed = packed if packed.is_contiguous() else packed.contiguous()
    width = packed.shape[-1] // 2
    out = torch.empty(*packed.shape[:-1], width, dtype=packed.dtype, device=packed.device)
    if out.numel():
        block = min(BLOCK, triton.next_power_of_2(width))
        grid = (out.numel() // width, triton.cdiv(width, block))
        _swiglu[grid](packed, out, WIDTH=width, BLOCK=block, num_warps=min(max(block // 512, 1), 4))
    return out


@triton.jit
def _swiglu(packed, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < WIDTH
    a = tl.load(packed + 2 * row * WIDTH + column, here, 0.0).to(tl.float32)
    b = tl.load(packed + (2 * row + 1) * WIDTH + column, here, 0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, a / (1 + tl.exp(-a)) * b, here)
