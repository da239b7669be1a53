"""LATENT's conventions: ComfyUI's latent formats from our latent statistics, and its noise masks."""

import comfy.latent_formats
import comfy.utils
import torch
from torch import Tensor

from ....mochi.config import TINY, DiTConfig, LatentStats


def latent_format(config: DiTConfig) -> comfy.latent_formats.LatentFormat:
    """The latent format of a DiT of these sizes: the built-in model's own, or the published one."""
    return MochiLatents(TINY.latents) if config == TINY.dit else comfy.latent_formats.Mochi()


class MochiLatents(comfy.latent_formats.Mochi):
    """Latents of a Mochi with statistics and preview colours of its own."""

    def __init__(self, stats: LatentStats):
        super().__init__()
        self.latents_mean = torch.tensor(stats.mean).view(1, -1, 1, 1, 1)
        self.latents_std = torch.tensor(stats.std).view(1, -1, 1, 1, 1)
        if stats.rgb:
            self.latent_rgb_factors = [list(row) for row in stats.rgb]
            self.latent_rgb_factors_bias = list(stats.rgb_bias)


def noise_mask(latent: dict) -> Tensor | None:
    """A LATENT's noise mask as samplers take it, (1 or B, 1 or 12, T, h, w), if it has one."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    return comfy.utils.reshape_mask(mask, (len(mask) if mask.ndim == 5 else 1, 1, *latent["samples"].shape[2:]))
