"""Our Euler loop inside ComfyUI's sampling machinery: noise masks, hooks, model patches and memory are the host's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ....mochi.errors import MochiError
from ....mochi.geometry import latent_shape
from ....mochi.sampling import Denoised
from ....mochi.sampling import sample as euler
from ..progress import show_text
from .fits import warn_if_short
from .whole_run import can_run_whole, run_whole

Latent = dict[str, Any]
PREVIEW_SIZE = 512


class ScheduledGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with a scale of its own for each step; at 1 the host leaves the negative prompt out."""

    def __init__(self, model: ModelPatcher, positive: Any, negative: Any, scales: Sequence[float]):
        super().__init__(model)
        self.scales = scales
        self.set_conds(positive, negative)
        self.set_cfg(scales[0])

    def at_step(self, index: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        self.set_cfg(self.scales[index])


def empty_latent(width: int, height: int, frames: int, batch: int) -> Latent:
    """The LATENT of `batch` empty videos, as Empty Mochi Latent Video makes it."""
    return {"samples": torch.zeros(latent_shape(width, height, frames, batch), device=mm.intermediate_device())}


def sample(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    latent: Latent,
    seed: int,
    sigmas: Sequence[float] | Tensor,
    scales: Sequence[float],
) -> Latent:
    """Denoise a LATENT with our Euler loop; one guidance scale for each step. Progress and previews go to the node.

    Returns the LATENT with new samples (VAE latents). Raises the host's interrupt within a step of a cancel.
    """
    if len(sigmas) < 2:  # the schedule of denoise 0
        return latent
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    warn_if_short(model, image.shape)
    noise = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32)
    guider = ScheduledGuider(model, positive, negative, scales)
    samples = guider.sample(
        noise,
        image,
        comfy.samplers.KSAMPLER(_euler_of(guider)),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=on_node(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return finished(latent, samples)


def finished(latent: Latent, samples: Tensor) -> Latent:
    """The LATENT with the samples of a run. Raises MochiError where they are not finite."""
    if not samples.isfinite().all():
        raise MochiError(
            "Sampling ran out of the range of numbers. Choose bfloat16 or float32 in Load AsymmDiT (Mochi)."
        )
    return {**latent, "samples": samples.to(mm.intermediate_device())}


def _euler_of(guider: ScheduledGuider) -> Callable[..., Tensor]:
    """The core's loop, as ComfyUI's KSAMPLER calls it. The host estimates z_0, the loop wants the flow to it."""

    def run(model: Any, noise: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: bool) -> Tensor:
        def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
            guider.at_step(step)
            return (model(z, sigma, **extra_args) - z) / sigma[0]

        def report(done: Denoised) -> None:
            console.update()
            if callback is not None:
                callback({"i": done.step - 1, "x": done.latents, "denoised": done.estimate})

        with tqdm(total=len(sigmas) - 1, disable=disable) as console:
            if can_run_whole(guider, **extra_args):
                return run_whole(guider, noise, sigmas.tolist(), report)
            return euler(predict, noise, sigmas.tolist(), report)

    return run


def on_node(model: ModelPatcher, steps: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """Moves the node's progress bar, says how long a step takes, and shows the middle frame of what the video is going
    to be."""
    bar, first = comfy.utils.ProgressBar(steps), 0.0
    latent_format = model.get_model_object("latent_format")
    ranks_tell = hasattr(model.model, "remote")

    def report(step: int, estimate: Tensor, latents: Tensor, total: int) -> None:
        nonlocal first
        bar.update_absolute(step + 1, total, ("JPEG", preview_image(estimate, latent_format), PREVIEW_SIZE))
        if not ranks_tell:
            # The first step does not count: models are loaded, and code is compiled, before it and in it.
            first = first or time.monotonic()
            show_text(step_text(step + 1, total, time.monotonic() - first))

    return report


def step_text(done: int, total: int, seconds: float) -> str:
    """Such as "step 12 of 64 · 3.1 s a step · 2:41 left". seconds: since the first step ended."""
    if done == 1:
        return f"step 1 of {total}"
    each = seconds / (done - 1)
    minutes, left = divmod(round(each * (total - done)), 60)
    return f"step {done} of {total} · {each:.1f} s a step · {minutes}:{left:02} left"


def preview_image(z0: Tensor, latent_format: Any) -> Image.Image:
    """The middle frame of the first video of z0 (B, 12, T, h, w), in the colours that the latents suggest."""
    frame = z0[0, :, z0.shape[2] // 2].float().movedim(0, -1).cpu()
    rgb = frame @ torch.tensor(latent_format.latent_rgb_factors) + torch.tensor(latent_format.latent_rgb_factors_bias)
    return Image.fromarray(((rgb + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy())
