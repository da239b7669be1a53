"""The bytes of the denoiser's weights: all of them, and those that a device has while it runs.

Blocks are 99 % of the weights. Packed files pack the Linear layers of the blocks; all else is in the dtype to compute
in, as it is in most published files (some pack a little more or less, which moves a size by 4 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..checkpoint import dit_shapes
from ..config import DiTConfig
from ..quant import Float8, Ggml, QuantFormat

BLOCKS_AT_A_TIME = 3
"""Blocks that a sharded rank has whole: the one that runs, both as it arrived and put in order, and the one that
arrives. From reading FSDP2, not measured."""

LAYERS_AT_A_TIME = 2
"""Layers that a host streams to the device: the one that runs, and the one that arrives."""


@dataclass(frozen=True)
class Kept:
    """How weights are kept in memory. packing: of the blocks' Linear layers, None for the dtype to compute in."""

    title: str
    quant: QuantFormat | None = None


FILES = (
    Kept("bf16, or cast from float32"),
    Kept("fp8, plain or scaled", Float8(torch.float8_e4m3fn)),
    Kept("GGUF Q8_0", Ggml("Q8_0")),
    Kept("GGUF Q4_0", Ggml("Q4_0")),
    Kept("GGUF Q3_K_M", Ggml("Q3_K")),
)
"""The files that are published, the largest first. float32 is cast while it is loaded."""


@dataclass(frozen=True)
class Counts:
    """Values of a network's weights. linears: (rows, columns) of the Linear layers in the blocks."""

    linears: tuple[tuple[int, int], ...]
    others_in_blocks: int
    outside: int  # of the blocks

    @property
    def linears_in_blocks(self) -> int:
        return sum(rows * columns for rows, columns in self.linears)

    @property
    def all(self) -> int:
        return self.linears_in_blocks + self.others_in_blocks + self.outside


@lru_cache
def counts(config: DiTConfig) -> Counts:
    """Of an AsymmDiT, from the shapes of its parameters."""
    blocks, others, outside = [], 0, 0
    for name, shape in dit_shapes(config).items():
        if not name.startswith("blocks."):
            outside += math.prod(shape)
        elif len(shape) == 2:
            blocks.append(shape)
        else:
            others += math.prod(shape)
    return Counts(tuple(blocks), others, outside)


def weight_bytes(config: DiTConfig, kept: Kept, compute: torch.dtype = torch.bfloat16) -> int:
    """All weights of an AsymmDiT, as a file's are kept in memory."""
    count, packing = counts(config), kept.quant
    if packing is None:
        return count.all * compute.itemsize
    packed = sum(rows * packing.row_bytes(columns) for rows, columns in count.linears)
    return packed + (count.others_in_blocks + count.outside) * compute.itemsize


def file_sizes(config: DiTConfig, compute: torch.dtype = torch.bfloat16) -> Iterator[tuple[str, int]]:
    """What FILES are called, and their bytes; without those whose blocks do not divide the network's rows."""
    for kept in FILES:
        with suppress(ValueError):
            yield kept.title, weight_bytes(config, kept, compute)


def on_device(config: DiTConfig, weights: int, ranks: int, sharding: str, compute: torch.dtype) -> int:
    """Those of `weights` bytes that one of the ranks has on its device at the peak of a forward pass.

    sharding: "replicated", "sharded" or "offloaded", as in ParallelSettings. A single device has nobody to share
    with, and what is offloaded from it is streamed by the host, layer by layer: the least that it can do with.
    """
    if sharding == "replicated" or (sharding == "sharded" and ranks == 1):
        return weights
    count = counts(config)
    if ranks == 1:
        largest = max(rows * columns for rows, columns in count.linears)
        return min(weights, LAYERS_AT_A_TIME * largest * compute.itemsize)
    outside = min(weights, count.outside * compute.itemsize)
    block = -(-(weights - outside) // config.depth)
    # Of what is offloaded, the rank's share of a block at a time comes in, to be sent.
    shared = block if sharding == "offloaded" else weights - outside
    return outside + BLOCKS_AT_A_TIME * block + -(-shared // ranks)
