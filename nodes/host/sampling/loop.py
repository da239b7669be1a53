"""A sampling loop of ours inside ComfyUI's sampling machinery: noise masks, hooks, model patches and memory are the
host's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from tqdm.auto import tqdm

from ....mochi.errors import MochiError
from ....mochi.sampling import Denoised, SkipLayers
from ..types import Conditioning, Latent
from .preview import on_node
from .skip import with_skip


class ScheduledGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance with a scale of its own for each step; at 1 the host leaves the negative prompt out."""

    def __init__(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        scales: Sequence[float],
        skip: SkipLayers | None = None,
    ):
        # skip: skip-layer guidance
        super().__init__(model)
        self.scales, self.skip = scales, skip
        self.set_conds(positive, negative)
        self.set_cfg(scales[0])

    def at_step(self, index: int) -> None:
        """Take the scale of a step; raises the host's interrupt when the user cancels."""
        mm.throw_exception_if_processing_interrupted()
        self.set_cfg(self.scales[index])


@dataclass
class HostRun:
    """A run, as the host gives it to a loop. Tensors are in the model's own scale.

    Attributes:
        guider: With the model loaded and the prompts prepared.
        noise: (B, 12, T, h, w) at level sigmas[0].
        latents: The LATENT that the run was given, like noise.
        sigmas: Noise levels, one more than steps.
        extra_args: What the host wants with each call of its model.
    """

    guider: ScheduledGuider
    noise: Tensor
    latents: Tensor
    sigmas: list[float]
    extra_args: Mapping[str, Any]
    _model: Callable[..., Tensor]
    _callback: Callable[[dict[str, Any]], None] | None
    _console: tqdm

    def predict(self, z: Tensor, sigma: Tensor, step: int) -> Tensor:
        """The flow `z_0 - eps`. The host's model estimates z_0."""
        self.guider.at_step(step)
        extra_args = dict(self.extra_args)
        if self.guider.skip is not None:
            extra_args["model_options"] = with_skip(extra_args["model_options"], self.guider.skip)
        return (self._model(z, sigma, **extra_args) - z) / sigma[0]

    def report(self, done: Denoised) -> None:
        """Tell the host and the console about a finished step."""
        self._console.update()
        if self._callback is not None:
            self._callback({"i": done.step - 1, "x": done.latents, "denoised": done.estimate})


Loop = Callable[[HostRun], Tensor]


def run_loop(
    loop: Loop,
    guider: ScheduledGuider,
    latent: Latent,
    sigmas: Sequence[float],
    noise: Tensor | None = None,
    seed: int = 0,
) -> Latent:
    """Run a loop on a LATENT. Progress and previews go to the node.

    noise, seed: For a loop that starts from noise, which the host brings to level sigmas[0].

    Returns the LATENT with the loop's result (VAE latents) as its samples. Raises MochiError where these are not
    finite, and the host's interrupt within a step of a cancel.
    """

    def call(
        model: Any,  # a KSamplerX0Inpaint
        noise: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[dict[str, Any]], None] | None,
        disable: bool,
    ) -> Tensor:
        with tqdm(total=len(sigmas) - 1, disable=disable) as console:
            run = HostRun(guider, noise, model.latent_image, sigmas.tolist(), extra_args, model, callback, console)
            return loop(run)

    image = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent["samples"])
    samples = guider.sample(
        torch.zeros_like(image) if noise is None else noise,
        image,
        comfy.samplers.KSAMPLER(call),
        torch.as_tensor(sigmas, dtype=torch.float32),
        denoise_mask=latent.get("noise_mask"),
        callback=on_node(guider.model_patcher, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    if not samples.isfinite().all():
        raise MochiError(
            "Sampling ran out of the range of numbers. Choose bfloat16 or float32 in Load AsymmDiT (Mochi)."
        )
    return {**latent, "samples": samples.to(mm.intermediate_device())}
