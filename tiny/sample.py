"""Samples many prompts at once with the tiny model, and says how many of the clips obey."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mochi.config import TINY
from mochi.dit import AsymmDiT, TextContext
from mochi.sampling import Given, guided, linear_quadratic, per_step_cfg, sample
from mochi.vae.latents import to_vae

from .clips import Scene
from .judge import judge

LATENT_SHAPE = (12, 5, 8, 8)
"""Of a clip of 25 frames of 64x64."""
ATTRIBUTES = ("shape", "colour", "direction", "background")


@torch.inference_mode()
def sample_latents(
    dit: AsymmDiT,
    prompts: TextContext,
    empty: TextContext,
    seeds: Iterable[int],
    steps: int = TINY.defaults.steps,
    cfg: float = TINY.defaults.cfg,
    given: Given | None = None,
) -> Tensor:
    """DiT latents (B, 12, 5, 8, 8), float32; each clip's noise comes from its own seed.

    Args:
        prompts, empty: contexts of the B prompts and of B empty ones.
        given: frames that are given to the clips.
    """
    noise = torch.stack([torch.randn(LATENT_SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    rotary = dit.rotary(*LATENT_SHAPE[1:])
    predict = guided(
        lambda z, sigma: dit(z, sigma, prompts, rotary),
        lambda z, sigma: dit(z, sigma, empty, rotary),
        per_step_cfg(cfg, steps),
    )
    return sample(predict, noise, linear_quadratic(steps, TINY.defaults.threshold_noise), given=given)


@torch.inference_mode()
def decode_frames(decoder: nn.Module, latents: Tensor) -> list[np.ndarray]:
    """DiT latents (B, 12, T, h, w) -> clips (F, H, W, 3) in [0, 1], decoded one by one."""
    clips = (decoder(to_vae(one[None], TINY.latents))[0] for one in latents)
    return [((clip + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0).numpy() for clip in clips]


def obeyed(clips: Sequence[np.ndarray], scenes: Sequence[Scene]) -> np.ndarray:
    """(B, 4) bool: which of (shape, colour, direction, background) each clip shows as its scene says."""
    return np.array([judge(clip).agrees(scene) for clip, scene in zip(clips, scenes, strict=True)])


def rates(clips: Sequence[np.ndarray], scenes: Sequence[Scene]) -> str:
    """The share of clips that obey, for each attribute and for all four at once."""
    return summary(obeyed(clips, scenes))


def summary(right: np.ndarray) -> str:
    """What `obeyed` returns, as a line of shares."""
    parts = [f"{name} {share:.1%}" for name, share in zip(ATTRIBUTES, right.mean(0), strict=True)]
    return ", ".join([*parts, f"all {right.all(1).mean():.1%}"])
