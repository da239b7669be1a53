"""The memory that a device needs: to denoise a video, to decode it, and to encode its prompts.

All sizes are bytes; GB are 10^9 of them. A phase needs its weights, its activations at their peak, and allowances.
Activations are counted in copies of the tokens: constants, which `python -m benchmarks.memory` measures on a CPU. The
allowances (CONTEXT, SLACK, NCCL, BLOCKS_AT_A_TIME, and KERNELS of decoding) were not measured on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from .checkpoint import dit_shapes
from .config import DecoderConfig, DiTConfig
from .parallel.split import choose_split
from .parallel.spmd.vae import plan_strips
from .quant import QuantFormat
from .quant.ggml import CHUNK
from .vae import Decoder
from .vae.chunks import live_values, stages

GB = 10**9

CONTEXT = 600_000_000
"""Bytes of a card that no tensor gets: the driver's context and its kernels, 0.5 to 0.8 GB."""

SLACK = 400_000_000
"""Bytes that a phase takes besides its tensors: holes of the allocator, libraries' workspaces."""

NCCL = 3 * 16 * 10 * 2**20
"""Bytes of NCCL's buffers on each of several GPUs, from its defaults. A rank has 3 communicators: with all others, with
those that share its pass, and with those of the other guidance. Each has 16 channels (2 to 4 over PCIe, up to 32 over
NVLink), and a channel receives into 10 MiB: 4 of the protocol Simple, 4.7 of LL128 and 0.5 of LL."""

VISUAL_COPIES, SHARED_COPIES, TEXT_COPIES = 12, 15, 6
"""Copies of a block's tokens, each as D_x values, that are alive at the peak: of visual tokens; of those of a rank that
shares a pass and computes in 16 bits (in float32 they are 12 too); and of text tokens. Measured."""

DEQUANTIZED_COPIES, DEQUANTIZING = 4, 13
"""While a quantised weight is dequantised: copies of the visual tokens, and bytes of temporaries for each value of a
chunk. Measured: 8 to 12.3 bytes. Where kernels dequantise, this much more is there than is predicted."""

LATENT_COPIES = 8
"""Copies of the latents in float32 that the sampler and its guidance have at a time."""

T5_VALUES = 20
"""Values alive at T5's peak for each token and channel, attention's scores among them. Measured at T5's proportions."""

BLOCKS_AT_A_TIME = 3
"""Blocks that a sharded rank has whole: the one that runs, both as it arrived and put in order, and the one that
arrives. From reading FSDP2."""

LAYERS_AT_A_TIME = 2
"""Layers that a host streams to the device: the one that runs, and the one that arrives."""


def in_gb(size: int) -> str:
    """Bytes for people, such as `20 GB` or `5.8 GB`."""
    return f"{size / GB:.1f} GB" if size < 10 * GB else f"{size / GB:.0f} GB"


@dataclass(frozen=True)
class Counts:
    """Values of an AsymmDiT's weights.

    Attributes:
        linears: rows and columns of each Linear layer in the blocks.
        others: values of everything else, which no file quantises.
    """

    linears: tuple[tuple[int, int], ...]
    others: int

    @property
    def all(self) -> int:
        return self.others + sum(rows * columns for rows, columns in self.linears)

    @property
    def largest(self) -> int:
        return max(rows * columns for rows, columns in self.linears)


@lru_cache
def counts(config: DiTConfig) -> Counts:
    shapes = dit_shapes(config)
    linears = {name: (shape[0], shape[1]) for name, shape in shapes.items() if "blocks" in name and len(shape) == 2}
    return Counts(tuple(linears.values()), sum(math.prod(shapes[name]) for name in shapes.keys() - linears.keys()))


def weight_bytes(config: DiTConfig, quant: QuantFormat | None, compute: torch.dtype = torch.bfloat16) -> int:
    """Bytes of an AsymmDiT's weights, with the blocks' Linear layers in `quant` and all others in `compute`.

    Raises ValueError where the network's rows cannot be quantised so. Some files quantise a little more or less, which
    moves a size by 4 %.
    """
    count = counts(config)
    if quant is None:
        return count.all * compute.itemsize
    return count.others * compute.itemsize + sum(rows * quant.row_bytes(columns) for rows, columns in count.linears)


@dataclass(frozen=True)
class Need:
    """Bytes that a phase needs on a device, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def allowances(ranks: int) -> dict[str, int]:
    return {"collectives": NCCL if ranks > 1 else 0, "slack": SLACK}


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
    """Bytes of activations at the peak of a forward pass, on one of `ulysses` ranks that share the visual tokens."""
    own = -(-tokens // ulysses)
    token = batch * config.hidden_x * compute.itemsize
    copies = SHARED_COPIES if ulysses > 1 and compute.itemsize == 2 else VISUAL_COPIES
    peak = token * (copies * own + TEXT_COPIES * config.text_length)
    if is_quantized:
        largest = counts(config).largest
        dequantized = largest * compute.itemsize + DEQUANTIZING * min(CHUNK, largest)
        peak = max(peak, token * DEQUANTIZED_COPIES * own + dequantized)
    peak += token * (tokens - own)  # all embedded tokens, of which a rank's first block holds a view
    # Before the first step, the table of positions is made from half as many angles, and a rank copies its part.
    table, part = positions(config, tokens), positions(config, tokens, ulysses)
    return max(peak, table + max(table // 2, part if ulysses > 1 else 0) - part)


@dataclass(frozen=True)
class Denoising:
    """A guided run, whose needs are those of each device.

    Attributes:
        weights: bytes of all weights as they are kept; quantised where these are fewer than in `compute`.
        latents: their shape (B, 12, T, h, w).
        ranks: devices that share the work.
        sharding: "replicated", "sharded" or "offloaded", as in ParallelSettings. The host streams what is offloaded
            from a single device, layer by layer.
        passes: of guidance in one batch: 2 as a host may do where there is room, 1 for one after the other.
    """

    config: DiTConfig
    weights: int
    latents: Sequence[int]
    ranks: int = 1
    sharding: str = "replicated"
    compute: torch.dtype = torch.bfloat16
    passes: int = 1

    @property
    def need(self) -> Need:
        batch, tokens = tokens_of(self.config, self.latents)
        ulysses = choose_split(self.ranks, self.config.num_heads, 2).ulysses_degree
        quantized = self.weights < counts(self.config).all * self.compute.itemsize
        return Need(
            {
                "weights": self._weights_on_device(),
                "activations": activations(self.config, tokens, batch * self.passes, self.compute, ulysses, quantized),
                "positions": positions(self.config, tokens, ulysses),
                "latents": LATENT_COPIES * 4 * math.prod(self.latents),
                **allowances(self.ranks),
            }
        )

    @property
    def host(self) -> int:
        """Bytes of weights in the machine's memory, of all ranks together."""
        return self.weights if self.sharding == "offloaded" else 0

    @property
    def latent_frames(self) -> int:
        return self.latents[2]

    def fits(self, free: int) -> bool:
        return self.need.total <= free

    def shorter(self, latent_frames: int) -> "Denoising":
        return replace(self, latents=(*self.latents[:2], latent_frames, *self.latents[3:]))

    def longest(self, most: int, free: int) -> int:
        """The most latent frames, up to `most`, that fit in `free` bytes; 0 if none do."""
        return next((frames for frames in range(most, 0, -1) if self.shorter(frames).fits(free)), 0)

    def _weights_on_device(self) -> int:
        """Those that a device has at the peak of a forward pass."""
        if self.sharding == "replicated" or (self.sharding == "sharded" and self.ranks == 1):
            return self.weights
        if self.ranks == 1:
            return min(self.weights, LAYERS_AT_A_TIME * counts(self.config).largest * self.compute.itemsize)
        return gathered_weights(self.config, self.weights, self.ranks, self.sharding == "offloaded", self.compute)


def gathered_weights(config: DiTConfig, weights: int, ranks: int, is_offloaded: bool, compute: torch.dtype) -> int:
    """Bytes of weights on one of the ranks that share them by FSDP2. weights: bytes of all, as they are kept."""
    others = min(weights, counts(config).others * compute.itemsize)
    block = -(-(weights - others) // config.depth)
    # Of offloaded weights, the rank's share of one block at a time comes in, to be sent.
    shared = block if is_offloaded else weights - others
    return others + BLOCKS_AT_A_TIME * block + -(-shared // ranks)


def decoding(
    config: DecoderConfig, latents: Sequence[int], ranks: int = 1, compute: torch.dtype = torch.bfloat16, chunk: int = 0
) -> Need:
    """The need of decoding VAE latents (B, 12, T, h, w). A single device keeps all frames until the last one.

    chunk: latent frames at a time, 0 for as few as can be.
    """
    batch, _, frames, height, width = latents
    *_, last = stages(config)
    video = 3 * ((frames - 1) * last.time + 1) * height * width * last.space**2
    values = {
        "weights": sum(p.numel() for p in Decoder(config, device="meta").parameters()),
        **{name: batch * count for name, count in strip_values(config, latents, ranks, chunk).items()},
        # The frames exist in pieces and joined; ranks send off each piece.
        "frames": 2 * batch * video if ranks == 1 else 0,
    }
    return Need({**{name: count * compute.itemsize for name, count in values.items()}, **allowances(ranks)})


def strip_values(config: DecoderConfig, latents: Sequence[int], ranks: int = 1, chunk: int = 0) -> dict[str, int]:
    """`live_values` on the rank with the largest strip, when the picture of latents (B, 12, T, h, w) is cut for ranks.

    chunk: as in `decoding`.
    """
    frames, height, width = latents[2:]
    strips = plan_strips(height, width, ranks)
    rows, columns = (max(strips.sizes), width) if strips.axis == 3 else (height, max(strips.sizes))
    return live_values(config, min(chunk or strips.chunk, frames), rows, columns, in_strips=ranks > 1)


def encoding(weights: int, prompts: int = 2, compute: torch.dtype = torch.bfloat16) -> Need:
    """The need of T5 v1.1 XXL for a prompt and a negative one. weights: bytes of its weights as they are kept."""
    return Need(
        {"weights": weights, "activations": T5_VALUES * prompts * 256 * 4096 * compute.itemsize, "slack": SLACK}
    )
