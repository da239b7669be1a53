"""The preview of a node that samples: a progress bar, the time that a step takes, and a picture of the video."""

import time
from collections.abc import Callable
from typing import Any

import comfy.utils
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ..progress import show_text

PREVIEW_SIZE = 512


def on_node(model: ModelPatcher, steps: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """A callback as the host's samplers take it: (step, estimate of z_0, latents, steps)."""
    bar, first = comfy.utils.ProgressBar(steps), 0.0
    latent_format: Any = model.get_model_object("latent_format")
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


def preview_image(z0: Tensor, latent_format: LatentFormat) -> Image.Image:
    """The middle frame of the first video of z0 (B, 12, T, h, w), in the colours that the latents suggest."""
    frame = z0[0, :, z0.shape[2] // 2].float().movedim(0, -1).cpu()
    rgb = frame @ torch.tensor(latent_format.latent_rgb_factors) + torch.tensor(latent_format.latent_rgb_factors_bias)
    return Image.fromarray(((rgb + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy())
