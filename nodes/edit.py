"""Editing a clip by its words: back to the noise that it could have come from, and from there with another prompt."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mochi.config import PREVIEW, TINY
from ..mochi.errors import MochiError
from ..mochi.sampling.edit import windowed
from ..mochi.sampling.schedule import SCHEDULES, scheduled
from .host.checks import check_conditioning, check_latent, check_patches, check_sigmas
from .host.sampling.edit import noise_of, resampled
from .sampler import MAX_STEPS
from .search import also_found_as

CATEGORY = "Mochi"


class Invert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiInvert",
            display_name="Mochi Invert",
            category=CATEGORY,
            **also_found_as("unsample", "rf inversion", "mochi edit", "edit video"),
            description="Finds the noise that a clip could have been made from. Mochi Resample starts there with "
            "another prompt, which changes what the prompt says and keeps the rest.",
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), or ComfyUI's own Mochi model."),
                io.Conditioning.Input("positive", tooltip="What the clip shows, as it is now."),
                io.Latent.Input("latent", tooltip="The clip, from Mochi VAE Encode."),
                io.Int.Input(
                    "steps",
                    default=PREVIEW.defaults.steps,
                    min=1,
                    max=MAX_STEPS,
                    tooltip="Of the way back, and of the run that follows. The published model likes 64, the tiny one "
                    f"{TINY.defaults.steps}. More steps keep more of the clip.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="mochi",
                    optional=True,
                    tooltip="Of the noise. distilled: for the distilled model (FastMochi), with 8 steps.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="noise", tooltip="For Mochi Resample."),
                io.Sigmas.Output(tooltip="The schedule, for Mochi Resample."),
            ],
        )

    @classmethod
    def execute(cls, model, positive, latent: dict, steps: int, schedule: str = "mochi") -> io.NodeOutput:
        sigmas = scheduled(schedule, steps)
        check_latent(latent["samples"])
        check_patches(latent["samples"])
        check_conditioning(model, positive, positive)
        return io.NodeOutput(noise_of(model, positive, latent, sigmas), torch.tensor(sigmas))


class Resample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiResample",
            display_name="Mochi Resample",
            category=CATEGORY,
            **also_found_as("rf inversion", "mochi edit", "edit video"),
            description="Makes a clip anew from its own noise (Mochi Invert) with another prompt; what the original "
            "is like can guide the first part of the run.",
            inputs=[
                io.Model.Input("model", tooltip="The one that Mochi Invert had."),
                io.Conditioning.Input("positive", tooltip="What the clip is to show."),
                io.Conditioning.Input("negative", tooltip="What it does not show; usually an empty prompt."),
                io.Latent.Input("noise", tooltip="From Mochi Invert."),
                io.Latent.Input(
                    "original", tooltip="The clip that Mochi Invert had. Outside a noise mask it stays as it is."
                ),
                io.Sigmas.Input("sigmas", tooltip="From Mochi Invert."),
                io.Float.Input(
                    "cfg",
                    default=PREVIEW.defaults.cfg,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    round=0.01,
                    tooltip="How strictly the new prompt is followed: 6 for the published model, "
                    f"{TINY.defaults.cfg:g} for the tiny one.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How strongly each guided step is drawn to the original. 0: not at all. 1: the step makes "
                    "nothing new.",
                ),
                io.Float.Input(
                    "start", default=0.0, min=0.0, max=1.0, step=0.05, tooltip="Part of the run where guidance starts."
                ),
                io.Float.Input(
                    "end",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Part of the run where it ends: the later, the more stays as it was. Try 0.3 to 0.8.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi VAE Decode or VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        noise: dict,
        original: dict,
        sigmas: torch.Tensor,
        cfg: float,
        strength: float,
        start: float,
        end: float,
    ) -> io.NodeOutput:
        if len(sigmas) < 2:
            return io.NodeOutput(original)  # a schedule of denoise 0
        if sigmas[-1] != 0:
            raise MochiError(f"sigmas end at {sigmas[-1]:g}, but must end at 0: link those of Mochi Invert")
        steps = len(sigmas) - 1
        strengths = windowed(strength, start, end, steps)
        for latent in (noise, original):
            check_latent(latent["samples"])
        if noise["samples"].shape != original["samples"].shape:
            raise MochiError(
                f"noise has the shape {tuple(noise['samples'].shape)} and original "
                f"{tuple(original['samples'].shape)}, but they must be those of one clip: give both to Mochi Invert "
                "and Mochi Resample as they come."
            )
        check_patches(noise["samples"])
        check_sigmas(sigmas.tolist())
        check_conditioning(model, positive, negative)
        scales = [cfg] * steps
        return io.NodeOutput(resampled(model, positive, negative, noise, original, sigmas.tolist(), scales, strengths))
