"""RMS norms of tokens and what goes with them, one launch each; the formulas are in mochi/dit/layers.py.

A program takes a few tokens of one sample, one after the other, and keeps the vectors that these share in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 4
"""Of a program: with more of them fewer programs remain to fill a device, with fewer tanh takes as long as memory."""


def modulated_rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    x, scale = _in_rows(x), _in_rows(scale)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        grid, options = _launch(x)
        _modulated[grid](x, scale, out, eps, x.shape[1], x.stride(0), x.stride(1), scale.stride(0), **options)
    return out


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, eps: float) -> Tensor:
    return _gate(x, branch, gate, None, eps)[0]


def gated_residual_norm(x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _gate(x, branch, gate, _in_rows(scale), eps)


def _gate(x: Tensor, branch: Tensor, gate: Tensor, scale: Tensor | None, eps: float) -> tuple[Tensor, Tensor | None]:
    x, branch, gate = _in_rows(x), _in_rows(branch), _in_rows(gate)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    normed = None if scale is None else torch.empty_like(out)
    if out.numel():
        grid, options = _launch(x)
        strides = *x.stride()[:2], *branch.stride()[:2], gate.stride(0), 0 if scale is None else scale.stride(0)
        _gated[grid](x, branch, gate, scale, out, normed, eps, x.shape[1], *strides, **options)
    return out, normed


def _in_rows(t: Tensor) -> Tensor:
    """With the values of a row side by side, as all tensors of the model have them."""
    return t if t.stride(-1) == 1 else t.contiguous()


def _launch(x: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid and constants for x (B, N, D); 16 values of a row for each thread, two accesses of 16 bytes in bfloat16."""
    batch, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    options = {"WIDTH": width, "BLOCK": block, "TOKENS": TOKENS, "num_warps": min(max(block // 512, 1), 8)}
    return (triton.cdiv(tokens, TOKENS), batch), options


@triton.jit
def _modulated(
    x,
    scale,
    out,
    eps,
    tokens,
    x_batch,
    x_token,
    scale_batch,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):
    batch, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * TOKENS
    column = tl.arange(0, BLOCK)
    here = column < WIDTH
    factor = 1 + tl.load(scale + batch * scale_batch + column, here, 0.0).to(tl.float32)
    for step in tl.static_range(TOKENS):
        token = first + step
        is_there = here & (token < tokens)
        value = tl.load(x + batch * x_batch + token * x_token + column, is_there, 0.0).to(tl.float32)
        tl.store(out + (batch * tokens + token) * WIDTH + column, _normed(value, eps, WIDTH) * factor, is_there)


@triton.jit
def _gated(
    x,
    branch,
    gate,
    scale,
    out,
    normed,
    eps,
    tokens,
    x_batch,
    x_token,
    branch_batch,
    branch_token,
    gate_batch,
    scale_batch,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
):
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
        to = (batch * tokens + token) * WIDTH + column
        value = (_normed(change, eps, WIDTH) * opening + value).to(out.dtype.element_ty)
        tl.store(out + to, value, is_there)
        if scale is not None:
            # Of what was rounded, as if it had been read back.
            tl.store(normed + to, _normed(value.to(tl.float32), eps, WIDTH) * factor, is_there)


@triton.jit
def _normed(value, eps, WIDTH: tl.constexpr):
    """A row in float32, zeros behind its WIDTH values, over its root mean square."""
    return value * tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps)


@triton.jit
def _tanh(value):
    """To a few ulp of float32: the quotient loses its digits near zero, where a polynomial takes its place."""
    size = tl.abs(value)
    square = value * value
    series = -0.33333318 + square * (
        0.133326017 + square * (-0.0538538573 + square * (0.0210777560 + square * -0.00628247020))
    )
    far = 1 - 2 / (tl.exp(2 * size) + 1)
    return tl.where(size < 0.55, value + value * square * series, tl.where(value < 0, -far, far))
