"""Sizes of the models. Every width, depth and count is written here, and nowhere else.

Source: the published model's readme and the shapes of its weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DiTConfig:
    """AsymmDiT. `x` is the visual stream, `y` the text stream."""

    depth: int = 48
    num_heads: int = 24
    hidden_x: int = 3072
    hidden_y: int = 1536
    mlp_x: int = 8192  # as SwiGLU has it: two thirds of 4 * hidden_x
    mlp_y: int = 4096
    patch_size: int = 2
    channels: int = 12
    text_width: int = 4096
    text_length: int = 256
    caption_heads: int = 8
    rope_area: float = 192.0**2  # patch grids are scaled to this many positions

    @property
    def head_dim(self) -> int:
        return self.hidden_x // self.num_heads


@dataclass(frozen=True)
class DecoderConfig:
    """AsymmVAE decoder. Lists run from the frames (shallow) to the latents (deep)."""

    base: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 6)
    res_blocks: tuple[int, ...] = (3, 3, 4, 6, 3)
    temporal: tuple[int, ...] = (1, 2, 3)
    spatial: tuple[int, ...] = (2, 2, 2)
    latent_channels: int = 12
    groups: int = 32

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.base * m for m in self.multipliers)


@dataclass(frozen=True)
class EncoderConfig(DecoderConfig):
    """AsymmVAE encoder: half the decoder's width, with causal attention in its deeper stages."""

    base: int = 64
    attention: tuple[bool, ...] = (False, True, True, True, True)
    attention_head_dim: int = 32
    fourier: tuple[int, ...] = (6, 7)  # extra input channels sin, cos of 2 pi 2^k rgb

    @property
    def in_channels(self) -> int:
        return 3 * (1 + 2 * len(self.fourier))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class LatentStats:
    """The statistics between the DiT's unit-variance latents and the VAE's, and colours to preview latents with.

    Attributes:
        mean, std: of each channel of the VAE's latents.
        rgb: a row (r, g, b) for each channel. It guesses the colours of DiT latents, in [-1, 1]. Empty where the host
            has its own guess.
        rgb_bias: what is added to the guess.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: tuple[tuple[float, ...], ...] = ()
    rgb_bias: tuple[float, ...] = (0.0, 0.0, 0.0)

    @classmethod
    def load(cls, path: Path) -> LatentStats:
        """Read the statistics that a training run has written as JSON."""
        values = json.loads(path.read_text())
        return cls(**{key: _tuples(value) for key, value in values.items()})


@dataclass(frozen=True)
class RunDefaults:
    """The settings of a run where a person chooses nothing.

    stg_layers: the blocks that skip-layer guidance leaves out, where it is asked for.
    """

    width: int
    height: int
    frames: int
    steps: int
    cfg: float
    fps: float = 30.0
    threshold_noise: float = 0.025
    stg_layers: tuple[int, ...] = (34,)


@dataclass(frozen=True)
class ModelConfig:
    """A whole Mochi: the networks, the latents between them, and the default settings."""

    name: str
    latents: LatentStats
    defaults: RunDefaults
    dit: DiTConfig = field(default_factory=DiTConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)


PREVIEW = ModelConfig(
    name="preview",
    latents=LatentStats(
        mean=(
            -0.06730895953510081,
            -0.038011381506090416,
            -0.07477820912866141,
            -0.05565264470995561,
            0.012767231469026969,
            -0.04703542746246419,
            0.043896967884726704,
            -0.09346305707025976,
            -0.09918314763016893,
            -0.008729793427399178,
            -0.011931556316503654,
            -0.0321993391887285,
        ),
        std=(
            0.9263795028493863,
            0.9248894543193766,
            0.9393059390890617,
            0.959253732819592,
            0.8244560132752793,
            0.917259975397747,
            0.9294154431013696,
            1.3720942357788521,
            0.881393668867029,
            0.9168315692124348,
            0.9185249279345552,
            0.9274757570805041,
        ),
    ),
    defaults=RunDefaults(width=848, height=480, frames=163, steps=64, cfg=6.0),
)


def pusa_defaults(defaults: RunDefaults) -> RunDefaults:
    """Those of a model, with what the release of Pusa V0.5 samples with."""
    return replace(defaults, steps=30, cfg=4.5)


TINY_WEIGHTS = Path(__file__).parent / "tiny" / "weights"
_TINY_STATS = TINY_WEIGHTS / "latents.json"

TINY = ModelConfig(
    name="tiny",
    # Written by the trainer of the tiny VAE; before it has run, latents pass as they are.
    latents=LatentStats.load(_TINY_STATS) if _TINY_STATS.exists() else LatentStats((0.0,) * 12, (1.0,) * 12),
    defaults=RunDefaults(width=64, height=64, frames=25, steps=16, cfg=4.0, fps=12.0, stg_layers=(3,)),
    dit=DiTConfig(depth=6, num_heads=8, hidden_x=192, hidden_y=96, mlp_x=512, mlp_y=256, text_width=128),
    decoder=DecoderConfig(base=16, multipliers=(1, 2, 4, 4), res_blocks=(1, 1, 1, 1, 1), groups=4),
    encoder=EncoderConfig(
        base=12,
        multipliers=(1, 2, 4, 4),
        res_blocks=(1, 1, 1, 1, 1),
        groups=4,
        attention=(False, False, False, False, True),
        attention_head_dim=24,
    ),
)
