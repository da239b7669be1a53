"""Between DiT and VAE: the statistics of the latents."""

import torch
from torch import Tensor

from ..config import LatentStats


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None, None]


def to_vae(latents: Tensor, stats: LatentStats) -> Tensor:
    """DiT latents (B, 12, T, h, w), about unit variance, to VAE latents."""
    return latents * _per_channel(stats.std, latents) + _per_channel(stats.mean, latents)


def to_dit(latents: Tensor, stats: LatentStats) -> Tensor:
    """VAE latents (B, 12, T, h, w) to DiT latents."""
    return (latents - _per_channel(stats.mean, latents)) / _per_channel(stats.std, latents)
