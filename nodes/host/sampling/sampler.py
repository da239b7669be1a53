"""From noise to latents, with the core's Euler loop."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management as mm
import comfy.sample
import torch
from torch import Tensor

from ....mochi.geometry import latent_shape
from ....mochi.sampling import sample as euler
from ..types import Latent
from .fits import warn_if_short
from .loop import HostRun, ScheduledGuider, run_loop
from .whole_run import can_run_whole, run_whole


def empty_latent(width: int, height: int, frames: int, batch: int) -> Latent:
    """The LATENT of `batch` empty videos, as Empty Mochi Latent Video makes it."""
    return {"samples": torch.zeros(latent_shape(width, height, frames, batch), device=mm.intermediate_device())}


def sample(guider: ScheduledGuider, latent: Latent, seed: int, sigmas: Sequence[float]) -> Latent:
    """Denoise a LATENT with our Euler loop, as `run_loop` does."""
    image = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent["samples"])
    warn_if_short(guider.model_patcher, image.shape)
    noise: Any = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    return run_loop(_denoise, guider, latent, sigmas, noise, seed)


def _denoise(run: HostRun) -> Tensor:
    if can_run_whole(run):
        return run_whole(run)
    return euler(run.predict, run.noise, run.sigmas, run.report)
