"""Denoising: what is alive in a forward pass of AsymmDiT when it is most.

Every moment below is a line of mochi/dit with the tensors that are alive there, counted in visual tokens of D_x
values, of which a block has one set at a time. The caller holds a block's input through the whole block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..config import DiTConfig
from ..parallel.split import choose_split
from ..quant.ggml import CHUNK
from .need import SLACK, Need, collectives
from .weights import counts, on_device

UNPACKING = 13
"""Bytes, for each value of a chunk, of the temporaries in which packed weights are unpacked. Measured: 8 to 12.3. The
kernels need none: where they run, this much more is there than is predicted."""

LATENTS = 8
"""Copies of the latents in float32 that the sampler and its guidance have at a time."""


def denoising(
    config: DiTConfig,
    weights: int,
    latents: Sequence[int],
    ranks: int = 1,
    sharding: str = "replicated",
    compute: torch.dtype = torch.bfloat16,
    passes: int = 1,
) -> Need:
    """The peak of a guided run on each of the ranks.

    weights: bytes of all weights as they are kept; packed where these are fewer than in `compute`. latents: shape
    (B, 12, T, h, w). sharding: "replicated", "sharded" or "offloaded". passes: of guidance in one batch (2 as a host
    may do where there is room; 1: one after the other).
    """
    batch, tokens = tokens_of(config, latents)
    ulysses = choose_split(ranks, config.num_heads, 2).ulysses_degree
    is_quantized = weights < counts(config).all * compute.itemsize
    return Need(
        {
            "weights": on_device(config, weights, ranks, sharding, compute),
            "activations": activations(config, tokens, batch * passes, compute, ulysses, is_quantized),
            "positions": positions(config, tokens, ulysses),
            "latents": LATENTS * 4 * math.prod(latents),
            "collectives": collectives(ranks),
            "slack": SLACK,
        },
        host=weights if sharding == "offloaded" else 0,
    )


def tokens_of(config: DiTConfig, latents: Sequence[int]) -> tuple[int, int]:
    """Samples, and visual tokens of each, for latents of shape (B, channels, T, h, w)."""
    batch, _, frames, *sides = latents
    return batch, frames * math.prod(-(-side // config.patch_size) for side in sides)


def positions(config: DiTConfig, tokens: int, ulysses: int = 1) -> int:
    """Bytes of a rank's rotary table: two float32 for each pair of a token's channels."""
    return 4 * config.hidden_x * -(-tokens // ulysses)


def activations(
    config: DiTConfig, tokens: int, batch: int, compute: torch.dtype, ulysses: int = 1, is_quantized: bool = False
) -> int:
    """Bytes of activations of a forward pass at its peak, on one of `ulysses` ranks that share the visual tokens."""
    own = -(-tokens // ulysses)
    moments = _moments(config, batch * own, batch * config.text_length, compute.itemsize, ulysses, is_quantized)
    # A part of the embedded tokens is a view of all of them, which the first block's caller holds.
    embedded = batch * (tokens - own) * config.hidden_x * compute.itemsize
    # Before the first step the table of positions is made: all of it, from angles, of which a rank copies its part.
    table, part = positions(config, tokens), positions(config, tokens, ulysses)
    making = table + max(table // 2, part if ulysses > 1 else 0)
    return max(embedded + max(moments.values()), making - part)


def _moments(
    config: DiTConfig, visual: int, text: int, itemsize: int, ulysses: int, is_quantized: bool
) -> dict[str, int]:
    """Bytes alive at the moments of a block that can be its peak, with so many visual and text tokens."""
    x, y = visual * config.hidden_x * itemsize, text * config.hidden_y * itemsize
    joint = text * config.hidden_x * itemsize  # text, as wide as what it meets in attention
    wide = visual * config.mlp_x * itemsize
    is_shared = ulysses > 1
    in_float = 4 * visual * config.hidden_x

    def weight(rows: int, columns: int) -> int:
        """A layer's weight while it is unpacked."""
        return rows * columns * itemsize + UNPACKING * min(CHUNK, rows * columns) if is_quantized else 0

    # Input, normed input, qkv in one piece; q as attention reads it, or, in a parallel run, room for what is sent, q, k
    # and v, and for what arrives of v. k is normed, in two steps, and then turned where it is, in float32; kernels take
    # no memory for that.
    turned = 2 + 3 + (4 if is_shared else 1)
    steps = 3 if itemsize < 4 else 2
    turning, turning_text = steps * in_float, steps * 4 * text * config.hidden_x // ulysses
    # Attention has its q, k and v (3), text of this rank's heads among them, and gives out (1) before qkv goes (3).
    attending = 2 + 3 + 3 + 1
    # Input, residual, output of attention (a name of the block's forward), normed input; gate and value; then silu
    # of the gate, which becomes its product with the value, and what w2 makes of that.
    return {
        "unpacking qkv": 2 * x + 2 * y + weight(3 * config.hidden_x, config.hidden_x),
        "turning k": turned * x + turning + 2 * y + 3 * joint + joint // ulysses,
        "turning k of the text": (turned + 1) * x + turning_text + 2 * y + 3 * joint + joint // ulysses,
        "attention": attending * x + 2 * y + 3 * joint + 4 * joint // ulysses,
        "unpacking w1": 4 * x + 2 * y + weight(2 * config.mlp_x, config.hidden_x),
        "MLP": 4 * x + 3 * wide + 2 * y,
        "unpacking w2": 4 * x + wide + 2 * y + weight(config.hidden_x, config.mlp_x),
    }
