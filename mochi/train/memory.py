"""The memory that a device needs to train a LoRA.

All sizes are bytes; GB are 10^9 of them. Between the forward and the backward pass each block keeps some tokens; at the
peak, one block is computed again and its gradients are on their way. Both are counted in copies of the tokens, each as
D_x values: constants, which `python -m benchmarks.train_memory` compares with what is alive in real steps. Weights and
allowances are those of mochi/memory.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import torch

from ..checkpoint import dit_shapes
from ..config import DiTConfig
from ..memory import DEQUANTIZING, Need, allowances, counts, gathered_weights, positions, tokens_of
from ..quant.ggml import CHUNK
from .lora import ATTENTION, MLP
from .settings import Rank, Recompute, TrainSettings


class Copies(NamedTuple):
    """Of the tokens of a step, visual and text.

    Attributes:
        kept, kept_text: by each block.
        peak, peak_text: beside those of all blocks, at the peak.
    """

    kept: float
    kept_text: float
    peak: float
    peak_text: float


COPIES = {
    ("nothing", 2): Copies(25.1, 16.6, 8.75, -8.0),
    ("nothing", 4): Copies(20.1, 13.6, 6.85, -6.0),
    ("all but attention", 2): Copies(2, 1.5, 34.9, 8.6),
    ("all but attention", 4): Copies(2, 1.5, 25.95, 6.6),
    ("blocks", 2): Copies(1, 0.5, 35.9, 9.6),
    ("blocks", 4): Copies(1, 0.5, 26.95, 7.6),
}
"""By what is recomputed, and bytes of a value. Measured, where there are more visual tokens than text. The last block
has less text, which counts against its peak. On CUDA, where a norm is one kernel, the peak in 16 bits is 2 lower."""

MLP_COPIES, MLP_LESS = 3.7, {2: 0.0, 4: 2.0}
"""Copies that a block keeps besides, with a LoRA on its MLPs; and how much of them is gone at the peak. Measured."""

DROPOUT_COPIES = {2: 2.0, 4: 1.5}
"""Copies that a block keeps besides, with dropout. Measured."""

SHARED_COPIES = 0.6
"""Copies besides at the peak of a rank that shares tokens with others. Measured."""

SHARED_TEXT_COPIES = {2: 8.0, 4: 4.0}
"""Copies of the text, of those of a block, that are of its heads, which such ranks share. Measured."""

DEQUANTIZED_COPIES = {2: 20.5, 4: 16.0}
"""Copies at the peak of a recomputed block while its largest weight is dequantised. Measured."""

LATENT_COPIES = 4
"""Copies of the latents in float32: latents, noise, and the difference that the loss is made of."""


@lru_cache
def lora_values(config: DiTConfig, attention: Rank, mlp: Rank) -> int:
    """Values of a LoRA's factors."""
    kinds = {kind: size.rank for size, group in ((attention, ATTENTION), (mlp, MLP)) for kind in group}
    shapes = {name.removesuffix(".weight"): shape for name, shape in dit_shapes(config).items()}
    return sum(kinds.get(".".join(name.split(".")[2:]), 0) * sum(shape) for name, shape in shapes.items())


@dataclass(frozen=True)
class Training:
    """Steps of training, whose needs are those of each device.

    Attributes:
        weights: bytes of the frozen weights as they are kept; quantised where these are fewer than in `compute`.
        latents: of the largest batch, (B, 12, T, h, w).
        mates: devices of a machine, over which weights are sharded.
        ulysses: devices that share the tokens of a batch.
        ranks: devices in all.
        sharding: "replicated", "sharded" or "offloaded", as in `Placement`.
        prompt: tokens of the longest caption.
    """

    config: DiTConfig
    weights: int
    latents: Sequence[int]
    settings: TrainSettings = field(default_factory=TrainSettings)
    mates: int = 1
    ulysses: int = 1
    ranks: int = 1
    sharding: str = "replicated"
    compute: torch.dtype = torch.bfloat16
    recompute: Recompute = "all but attention"
    prompt: int = 256

    @property
    def need(self) -> Need:
        _, tokens = tokens_of(self.config, self.latents)
        kept, peak = self._activations()
        return Need(
            {
                "weights": self._weights_on_device(),
                "LoRA": self._lora(),
                "kept activations": kept,
                "a block at its peak": peak,
                "positions": positions(self.config, tokens, self.ulysses),
                "latents": LATENT_COPIES * 4 * math.prod(self.latents),
                **allowances(self.ranks),
            }
        )

    @property
    def host(self) -> int:
        """Bytes of weights in a machine's memory, of all its ranks together."""
        return self.weights if self.sharding == "offloaded" else 0

    @property
    def latent_frames(self) -> int:
        return self.latents[2]

    def fits(self, free: int) -> bool:
        return self.need.total <= free

    def shorter(self, latent_frames: int) -> "Training":
        return replace(self, latents=(*self.latents[:2], latent_frames, *self.latents[3:]))

    def longest(self, most: int, free: int) -> int:
        """The most latent frames, up to `most`, that fit in `free` bytes; 0 if none do."""
        return next((frames for frames in range(most, 0, -1) if self.shorter(frames).fits(free)), 0)

    def _weights_on_device(self) -> int:
        if self.sharding == "replicated" or (self.sharding == "sharded" and self.mates == 1):
            return self.weights
        return gathered_weights(self.config, self.weights, self.mates, self.sharding == "offloaded", self.compute)

    def _lora(self) -> int:
        """Float32: factors, both moments of AdamW, the average, and gradients that are there from an earlier batch."""
        settings = self.settings
        copies = 3 + bool(settings.ema) + (settings.accumulate > 1)
        return 4 * copies * lora_values(self.config, settings.attention, settings.mlp)

    def _activations(self) -> tuple[int, int]:
        """What all blocks keep, and what else there is at the peak."""
        batch, tokens = tokens_of(self.config, self.latents)
        own, size = -(-tokens // self.ulysses), self.compute.itemsize
        token = batch * self.config.hidden_x * size
        copies, is_recomputed = self._copies(size), self.recompute != "nothing"
        of_blocks = self.config.depth * token * (copies.kept * own + copies.kept_text * self.prompt)
        of_peak = token * (copies.peak * own + copies.peak_text * self.prompt)
        if self.weights < counts(self.config).all * size:
            largest = counts(self.config).largest
            dequantized = largest * size + DEQUANTIZING * min(CHUNK, largest)
            at_once = DEQUANTIZED_COPIES[size] - (0 if is_recomputed else copies.kept)
            of_peak = max(of_peak, token * at_once * own + dequantized)
        # The first block keeps its tokens as a view of all embedded ones.
        return round(of_blocks), round(of_peak) + token * (tokens - own)

    def _copies(self, size: int) -> Copies:
        """COPIES of this run, with values of `size` bytes."""
        kept, kept_text, peak, peak_text = COPIES[self.recompute, size]
        # What a block keeps besides is there at the peak only, where the block is computed again.
        more = MLP_COPIES * bool(self.settings.mlp.rank) + DROPOUT_COPIES[size] * bool(self.settings.dropout)
        less_text = SHARED_TEXT_COPIES[size] * (1 - 1 / self.ulysses)
        if self.recompute == "nothing":
            kept, kept_text = kept + more, kept_text - less_text
        else:
            peak, peak_text = peak + more, peak_text - less_text
        if self.ulysses > 1:
            peak += SHARED_COPIES
        return Copies(kept, kept_text, peak - MLP_LESS[size] * bool(self.settings.mlp.rank), peak_text)
