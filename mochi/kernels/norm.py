"""RMS norms of tokens and what goes with them, one launch each; the formulas are in mochi/dit/formulas.py.

A program takes a few tokens of one sample, one after the other, and keeps the vectors that these share in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .float8 import empty_rows, quantized

TOKENS = 4
"""Tokens of a program. With more of them, fewer programs remain to fill a device; with fewer, tanh takes as long as
memory."""


def modulated_rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return _norm(x, scale, eps, torch.empty(x.shape, dtype=x.dtype, device=x.device), None)


def modulated_rms_norm_rows(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    values, scales = empty_rows(x.shape, x.device)
    return _norm(x, scale, eps, values, scales), scales


def _norm(x: Tensor, scale: Tensor, eps: float, out: Tensor, scales: Tensor | None) -> Tensor:
    x, scale = _in_rows(x), _in_rows(scale)
    if out.numel():
        grid, options = _launch(x)
        _modulated[grid](x, scale, out, scales, eps, x.shape[1], x.stride(0), x.stride(1), scale.stride(0), **options)
    return out


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, eps: float) -> Tensor:
    return _gate(x, branch, gate, None, eps, None, None)


def gated_residual_norm(x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _gate(x, branch, gate, scale, eps, normed, None), normed


def gated_residual_norm_rows(
    x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    values, scales = empty_rows(x.shape, x.device)
    return _gate(x, branch, gate, scale, eps, values, scales), values, scales


def _gate(
    x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor | None, eps: float,
    normed: Tensor | None, scales: Tensor | None,
) -> Tensor:  # fmt: skip
    x, branch, gate = _in_rows(x), _in_rows(branch), _in_rows(gate)
    scale = None if scale is None else _in_rows(scale)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        grid, options = _launch(x)
        strides = *x.stride()[:2], *branch.stride()[:2], gate.stride(0), 0 if scale is None else scale.stride(0)
        _gated[grid](x, branch, gate, scale, out, normed, scales, eps, x.shape[1], *strides, **options)
    return out


def _in_rows(t: Tensor) -> Tensor:
    """The tensor with the values of a row side by side, as all tensors of the model have them."""
    return t if t.stride(-1) == 1 else t.contiguous()


def _launch(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants for x (B, N, D). A thread takes 16 values of a row: two accesses of 16 bytes in bfloat16."""
    batch, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    options = {"WIDTH": width, "BLOCK": block, "TOKENS": TOKENS, "num_warps": min(max(block // 512, 1), 8)}
    return (triton.cdiv(tokens, TOKENS), batch), options


@triton.jit(do_not_specialize=["tokens"])  # one code for prompts of any length
def _modulated(
    x, scale, out, scales, eps, tokens, x_batch, x_token, scale_batch,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    batch, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * TOKENS
    column = tl.arange(0, BLOCK)
    here = column < WIDTH
    factor = 1 + tl.load(scale + batch * scale_batch + column, here, 0.0).to(tl.float32)
    for step in tl.static_range(TOKENS):
        token = first + step
        is_there = here & (token < tokens)
        value = tl.load(x + batch * x_batch + token * x_token + column, is_there, 0.0).to(tl.float32)
        normed = (_normed(value, eps, WIDTH) * factor).to(x.dtype.element_ty)
        _store(out, scales, batch * tokens + token, token < tokens, normed, WIDTH, BLOCK)


@triton.jit(do_not_specialize=["tokens"])
def _gated(
    x, branch, gate, scale, out, normed, scales, eps, tokens,
    x_batch, x_token, branch_batch, branch_token, gate_batch, scale_batch,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """scale and normed are None where the next norm is not wanted."""
    batch, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * TOKENS
    column = tl.arange(0, BLOCK)
    here = column < WIDTH
    opening = _tanh(tl.load(gate + batch * gate_batch + column, here, 0.0).to(tl.float32))
    if scale is not None:
        factor = 1 + tl.load(scale + batch * scale_batch + column, here, 0.0).to(tl.float32)
    for step in tl.static_range(TOKENS):
        token = first + step
        is_there = here & (token < tokens)
        value = tl.load(x + batch * x_batch + token * x_token + column, is_there, 0.0).to(tl.float32)
        change = tl.load(branch + batch * branch_batch + token * branch_token + column, is_there, 0.0).to(tl.float32)
        value = (_normed(change, eps, WIDTH) * opening + value).to(out.dtype.element_ty)
        _store(out, None, batch * tokens + token, token < tokens, value, WIDTH, BLOCK)
        if scale is not None:
            # From the rounded value, as if it had been read back.
            value = (_normed(value.to(tl.float32), eps, WIDTH) * factor).to(out.dtype.element_ty)
            _store(normed, scales, batch * tokens + token, token < tokens, value, WIDTH, BLOCK)


@triton.jit
def _store(out, scales, row, is_row, value, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Stores a row, if it is one. Where scales are wanted, its rounded values are quantised first."""
    if scales is not None:
        value, scale = quantized(value.to(tl.float32))
        tl.store(scales + row, scale, is_row)
    column = tl.arange(0, BLOCK)
    tl.store(out + row * WIDTH + column, value.to(out.dtype.element_ty), is_row & (column < WIDTH))


@triton.jit
def _normed(value, eps, WIDTH: tl.constexpr):
    """A row in float32, WIDTH values padded with zeros, over its root mean square."""
    return value * tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps)


@triton.jit
def _tanh(value):
    """tanh to a few ulp of float32. The quotient loses its digits near zero: there a polynomial takes its place."""
    size = tl.abs(value)
    square = value * value
    series = -0.33333318 + square * (
        0.133326017 + square * (-0.0538538573 + square * (0.0210777560 + square * -0.00628247020))
    )
    far = 1 - 2 / (tl.exp(2 * size) + 1)
    return tl.where(size < 0.55, value + value * square * series, tl.where(value < 0, -far, far))
