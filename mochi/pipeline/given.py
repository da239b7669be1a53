"""The pictures of a video's settings, as latents that its frames are given."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import LatentStats
from ..geometry import latent_shape
from ..images import by_latent, noise_multipliers
from ..sampling import Given
from ..settings import GenerateSettings
from ..vae import to_dit
from ..variant import RAW_LATENTS, given_latents, takes_frames

Encode = Callable[[Tensor], Tensor]
"""Frames (1, 3, F, H, W) in -1 to 1 -> mean latents (1, 12, T, h, w), VAE latents."""


def give_frames(settings: GenerateSettings, variant: str, stats: LatentStats, encode: Encode) -> tuple[Given, Tensor]:
    """What a denoiser is given, and DiT latents (1, 12, T, h, w) in which the given frames are as decoding wants them.

    Raises MochiError on pictures that cannot be given.
    """
    multipliers = noise_multipliers(settings.images, settings.frames, variant)
    raw = torch.zeros(latent_shape(settings.width, settings.height, settings.frames))  # as the encoder gives them
    latents = torch.zeros_like(raw)
    for place, image in by_latent(settings.images, settings.frames).items():
        picture = image.read(settings.width, settings.height)  # (1, H, W, 3)
        encoded = encode(2 * picture.movedim(-1, 0)[None] - 1).float().cpu()
        raw[:, :, place : place + 1] = encoded
        latents[:, :, place : place + 1] = to_dit(encoded, stats)
    entering = raw if given_latents(variant) == RAW_LATENTS else latents
    return Given(entering, multipliers, masked=not takes_frames(variant)), latents


def with_kept(latents: Tensor, given: Given, shown: Tensor) -> Tensor:
    """The result of a run, with the frames that stay in DiT latents, however they entered the network."""
    stays = torch.tensor(given.multipliers, device=latents.device) == 0
    return torch.where(stays[:, None, None], shown.to(latents), latents)
