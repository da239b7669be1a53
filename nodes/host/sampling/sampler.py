"""From noise to latents, with the core's Euler loop."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management as mm
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....mochi.geometry import latent_shape
from ....mochi.sampling import sample as euler
from ..types import Conditioning, Latent
from .fits import warn_if_short
from .loop import HostRun, run_loop
from .whole_run import can_run_whole, run_whole


def empty_latent(width: int, height: int, frames: int, batch: int) -> Latent:
    """The LATENT of `batch` empty videos, as Empty Mochi Latent Video makes it."""
    return {"samples": torch.zeros(latent_shape(width, height, frames, batch), device=mm.intermediate_device())}


def sample(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    seed: int,
    sigmas: Sequence[float],
    scales: Sequence[float],
) -> Latent:
    """Denoise a LATENT with our Euler loop, as `run_loop` does. A schedule without steps changes nothing."""
    if len(sigmas) < 2:
        return latent
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    warn_if_short(model, image.shape)
    noise: Any = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    return run_loop(_denoise, model, positive, negative, latent, sigmas, scales, noise, seed)


def _denoise(run: HostRun) -> Tensor:
    if can_run_whole(run):
        return run_whole(run)
    return euler(run.predict, run.noise, run.sigmas, run.report)
