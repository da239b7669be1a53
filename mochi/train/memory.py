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


COPIES: dict[Recompute, Copies] = {
    "nothing": Copies(17.4, 12.2, 7.5, -4.7),
    "all but attention": Copies(2, 1.5, 23.0, 5.6),
    "blocks": Copies(1, 0.5, 24.1, 6.6),
}
"""By what is recomputed. Measured, where there are more visual tokens than text. The last block has less text, which
counts against the peak."""

MLP_COPIES, MLP_GONE = 3.7, 1.0
"""Copies that a block keeps besides with a LoRA on its MLPs; how many of one block are gone at the peak. Measured."""

DROPOUT_COPIES, MLP_DROPOUT = {2: 2.0, 4: 1.5}, 1.9
"""Copies that a block keeps besides with dropout, by bytes of a value: masks have one byte; and how many times as much
for a LoRA on its MLPs. Measured."""

SHARED_TEXT_COPIES = 4
"""Copies of the text, of those of a block, that are of its heads, which ranks of one clip share. Measured."""

DEQUANTIZED_COPIES = 10
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
        dequantizing: bytes of temporaries for each value of a weight that is dequantised: none for float8, and for
            GGUF none where kernels do it.
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
    dequantizing: int = DEQUANTIZING

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
        token, copies = batch * self.config.hidden_x * size, self._copies()
        of_blocks = self.config.depth * token * (copies.kept * own + copies.kept_text * self.prompt)
        of_peak = token * (copies.peak * own + copies.peak_text * self.prompt)
        if self.weights < counts(self.config).all * size:
            largest = counts(self.config).largest
            dequantized = largest * size + self.dequantizing * min(CHUNK, largest)
            at_once = DEQUANTIZED_COPIES - (copies.kept if self.recompute == "nothing" else 0)
            of_peak = max(of_peak, token * at_once * own + dequantized)
        # The first block keeps its tokens as a view of all embedded ones.
        return round(of_blocks), round(of_peak) + token * (tokens - own)

    def _copies(self) -> Copies:
        """COPIES of this run."""
        kept, kept_text, peak, peak_text = COPIES[self.recompute]
        has_mlp, has_dropout = bool(self.settings.mlp.rank), bool(self.settings.dropout)
        more = MLP_COPIES * has_mlp + DROPOUT_COPIES[self.compute.itemsize] * has_dropout * (1 + MLP_DROPOUT * has_mlp)
        less_text = SHARED_TEXT_COPIES * (1 - 1 / self.ulysses)
        if self.recompute == "nothing":
            return Copies(kept + more, kept_text - less_text, peak - MLP_GONE * has_mlp, peak_text)
        # Only the block that is computed again has more.
        return Copies(kept, kept_text, peak + more - MLP_GONE * has_mlp, peak_text - less_text)
