"""Our loops for editing inside ComfyUI's sampling machinery: they start from a LATENT, without drawing noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....mochi.sampling import Denoised
from ....mochi.sampling import sample as euler
from ....mochi.sampling.edit import drawn_to, invert
from ....mochi.sampling.euler import StepPredict
from .sampler import Latent, ScheduledGuider, finished, on_node
from .step_cache import STEP_CACHE

Report = Callable[[Denoised], None]

Loop = Callable[[StepPredict, Tensor, Sequence[float], Report, Tensor | None], Tensor]
"""(flow, latents to start from, sigmas, what to call after each step, noise mask) -> latents; all in the model's own
scale."""


def noise_of(model: ModelPatcher, positive: Any, latent: Latent, sigmas: Sequence[float]) -> Latent:
    """The noise at level sigmas[0] from which a run without guidance would make this LATENT."""
    model = model.clone()  # a step cache looks for small changes from noise on, not towards it
    model.model_options["transformer_options"].pop(STEP_CACHE, None)

    def loop(predict: StepPredict, z: Tensor, sigmas: Sequence[float], report: Report, _: Tensor | None) -> Tensor:
        return invert(predict, z, sigmas, report)

    noise = _run(model, positive, positive, latent["samples"], sigmas, [1.0] * (len(sigmas) - 1), loop)
    return finished({"samples": noise}, noise)


def resampled(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    noise: Latent,
    original: Latent,
    sigmas: Sequence[float],
    cfg: float,
    strengths: Sequence[float],
) -> Latent:
    """A run from the noise of a clip, drawn to the clip in each step by its strength, and wholly outside its noise
    mask."""
    clean = model.model.process_latent_in(comfy.sample.fix_empty_latent_channels(model, original["samples"]))

    def loop(predict: StepPredict, z: Tensor, sigmas: Sequence[float], report: Report, mask: Tensor | None) -> Tensor:
        return euler(drawn_to(clean.to(z), predict, strengths, mask), z, sigmas, report)

    mask = original.get("noise_mask")
    return finished(
        original, _run(model, positive, negative, noise["samples"], sigmas, [cfg] * len(strengths), loop, mask)
    )


def _run(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    samples: Tensor,
    sigmas: Sequence[float],
    scales: Sequence[float],
    loop: Loop,
    mask: Tensor | None = None,
) -> Tensor:
    image = comfy.sample.fix_empty_latent_channels(model, samples)
    guider = ScheduledGuider(model, positive, negative, scales)
    return guider.sample(
        torch.zeros_like(image),
        image,
        _FromLatent(guider, loop),
        torch.as_tensor(sigmas, dtype=torch.float32),
        denoise_mask=mask,
        callback=on_node(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=0,
    )


class _FromLatent(comfy.samplers.Sampler):
    """What the host calls to sample: one of our loops, from the LATENT as it is."""

    def __init__(self, guider: ScheduledGuider, loop: Loop):
        self._guider, self._loop = guider, loop

    def sample(
        self,
        model: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
            self._guider.at_step(step)
            return (model(z, sigma, **extra_args) - z) / sigma[0]

        def report(done: Denoised) -> None:
            if callback is not None:
                callback(done.step - 1, done.estimate, done.latents, done.steps)

        return self._loop(predict, latent_image, sigmas.tolist(), report, denoise_mask)
