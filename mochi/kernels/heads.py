"""Queries, keys and values to where attention reads them, normed and turned; the formulas are in mochi/dit/heads.py.

A program takes a few rows. A row is one head of one token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 2048
"""Values of the queries of a program, and as many of keys and of values: 16 for each thread."""


def joint_heads(
    x: Tensor, y: Tensor,
    q_weight_x: Tensor, k_weight_x: Tensor, q_weight_y: Tensor, k_weight_y: Tensor, turns: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    (batch, visual, _, heads, width), text = x.shape, y.shape[1]
    joint = torch.empty(3, batch, visual + text, heads, width, dtype=x.dtype, device=x.device)
    q, k, v = joint.unbind()
    _launch(x, *(t[:, :visual].unsqueeze(2) for t in (q, k, v)), q_weight_x, k_weight_x, turns, eps)
    _launch(y, *(t[:, visual:].unsqueeze(2) for t in (q, k, v)), q_weight_y, k_weight_y, None, eps)
    return q, k, v


def write_heads(
    packed: Tensor, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, turns: Tensor | None, eps: float
) -> None:
    _launch(packed, q, k, None, q_weight, k_weight, turns, eps)


def _launch(
    packed: Tensor, q: Tensor, k: Tensor, v: Tensor | None,
    q_weight: Tensor, k_weight: Tensor, turns: Tensor | None, eps: float,
) -> None:  # fmt: skip
    """q, k and v (B, n, p, h/p, d) have the same strides."""
    batch, tokens, _, heads, width = packed.shape
    if not packed.numel():
        return
    turns = None if turns is None else turns.contiguous()
    block = triton.next_power_of_2(width)
    rows = max(VALUES // block, 1)
    strides = *packed.stride()[:4], *q.stride()[:4]
    _heads[triton.cdiv(tokens * heads, rows), batch](
        packed, q, k, v, q_weight, k_weight, turns, eps, tokens * heads, *strides,
        HEADS=heads, TOGETHER=q.shape[3], WIDTH=width, BLOCK=block, ROWS=rows, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])  # one code for prompts of any length
def _heads(
    packed, q, k, v, q_weight, k_weight, turns, eps, rows,
    packed_batch, packed_token, packed_part, packed_head, out_batch, out_token, out_rank, out_head,
    HEADS: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """TOGETHER: heads of a rank. v is None where it is written elsewhere, turns where tokens have no positions."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    here = (row < rows)[:, None] & (channel < WIDTH)[None, :]
    token, head = (row // HEADS).to(tl.int64), row % HEADS
    from_row = batch * packed_batch + token * packed_token + head * packed_head
    to_row = batch * out_batch + token * out_token + head // TOGETHER * out_rank + head % TOGETHER * out_head
    source = packed + from_row[:, None] + channel[None, :]
    to = to_row[:, None] + channel[None, :]
    if turns is not None:
        turn = tl.load(turns + row.to(tl.int64)[:, None] * WIDTH + channel[None, :], here, 0.0)
        cos, sin = tl.split(tl.reshape(turn, (ROWS, BLOCK // 2, 2)))
    for part in tl.static_range(2):
        value = tl.load(source + part * packed_part, here, 0.0).to(tl.float32)
        weight = tl.load((q_weight if part == 0 else k_weight) + channel, channel < WIDTH, 0.0).to(tl.float32)
        value *= tl.rsqrt(tl.sum(value * value, 1) / WIDTH + eps)[:, None]
        value *= weight[None, :]
        if turns is not None:
            a, b = tl.split(tl.reshape(value, (ROWS, BLOCK // 2, 2)))
            value = tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (ROWS, BLOCK))
        tl.store((q if part == 0 else k) + to, value, here)
    if v is not None:
        tl.store(v + to, tl.load(source + 2 * packed_part, here, 0.0), here)
