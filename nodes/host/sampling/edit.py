"""Editing loops: they start from a LATENT as it is, and draw no noise."""

from collections.abc import Sequence

import comfy.sample
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....mochi.sampling import sample as euler
from ....mochi.sampling.edit import drawn_to, invert
from ..sockets.step_cache import STEP_CACHE
from ..types import Conditioning, Latent
from .loop import HostRun, ScheduledGuider, run_loop


def noise_of(model: ModelPatcher, positive: Conditioning, latent: Latent, sigmas: Sequence[float]) -> Latent:
    """The noise at level sigmas[0] from which a run without guidance would make this LATENT."""
    model = model.clone()  # a step cache is fitted to runs from noise, not towards it
    model.model_options["transformer_options"].pop(STEP_CACHE, None)

    def loop(run: HostRun) -> Tensor:
        return invert(run.predict, run.latents, run.sigmas, run.report)

    guider = ScheduledGuider(model, positive, positive, [1.0] * (len(sigmas) - 1))
    return run_loop(loop, guider, {"samples": latent["samples"]}, sigmas)


def resampled(
    guider: ScheduledGuider, noise: Latent, original: Latent, sigmas: Sequence[float], strengths: Sequence[float]
) -> Latent:
    """A run from the noise of a clip. Each step is drawn to the clip by its strength.

    Where the clip has a noise mask, it stays as it is outside the mask.
    """
    model = guider.model_patcher
    clean = model.model.process_latent_in(comfy.sample.fix_empty_latent_channels(model, original["samples"]))
    mask = original.get("noise_mask")

    def loop(run: HostRun) -> Tensor:
        made = None if mask is None else comfy.utils.reshape_mask(mask, clean.shape).to(run.latents)
        flow = drawn_to(clean.to(run.latents), run.predict, strengths, made)
        return euler(flow, run.latents, run.sigmas, run.report)

    return original | run_loop(loop, guider, {"samples": noise["samples"]}, sigmas)
