"""Editing a clip by its words: back to the noise that it could have come from, and from there with another prompt."""

import torch
from comfy_api.latest import io

from ..mochi.config import TINY
from ..mochi.errors import MochiError
from ..mochi.sampling.edit import windowed
from ..mochi.sampling.schedule import scheduled
from . import widgets
from .host.checks import check_latent, check_run
from .host.sampling.edit import noise_of, resampled
from .host.sampling.loop import ScheduledGuider
from .host.types import Conditioning, Latent, Model


class Invert(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelInvert",
            "Mochi Invert",
            "Finds the noise that a clip could have been made from. Mochi Resample starts there with another prompt, "
            "which changes what the prompt says and keeps the rest.",
            found_as=("unsample", "rf inversion", "mochi edit", "edit video"),
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), or ComfyUI's own Mochi model."),
                io.Conditioning.Input("positive", tooltip="What the clip shows, as it is now."),
                io.Latent.Input("latent", tooltip="The clip, from Mochi VAE Encode."),
                widgets.steps(
                    "Of the way back, and of the run that follows. The published model likes 64, the tiny one "
                    f"{TINY.defaults.steps}. More steps keep more of the clip."
                ),
                widgets.schedule("Of the noise. distilled: for the distilled model (FastMochi), with 8 steps."),
            ],
            outputs=[
                io.Latent.Output(display_name="noise", tooltip="For Mochi Resample."),
                io.Sigmas.Output(tooltip="The schedule, for Mochi Resample."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Model, positive: Conditioning, latent: Latent, steps: int, schedule: str = "mochi"
    ) -> io.NodeOutput:
        sigmas = scheduled(schedule, steps)
        check_run(model, sigmas, latent["samples"], positive)
        return io.NodeOutput(noise_of(model, positive, latent, sigmas), torch.tensor(sigmas))


class Resample(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelResample",
            "Mochi Resample",
            "Makes a clip anew from its own noise (Mochi Invert) with another prompt; what the original is like can "
            "guide the first part of the run.",
            found_as=("rf inversion", "mochi edit", "edit video"),
            inputs=[
                io.Model.Input("model", tooltip="The one that Mochi Invert had."),
                io.Conditioning.Input("positive", tooltip="What the clip is to show."),
                io.Conditioning.Input("negative", tooltip="What it does not show; usually an empty prompt."),
                io.Latent.Input("noise", tooltip="From Mochi Invert."),
                io.Latent.Input(
                    "original", tooltip="The clip that Mochi Invert had. Outside a noise mask it stays as it is."
                ),
                io.Sigmas.Input("sigmas", tooltip="From Mochi Invert."),
                widgets.cfg(
                    "How strictly the new prompt is followed: 6 for the published model, "
                    f"{TINY.defaults.cfg:g} for the tiny one."
                ),
                widgets.fraction(
                    "strength",
                    0.6,
                    "How strongly each guided step is drawn to the original. 0: not at all. 1: the step makes nothing "
                    "new.",
                    step=0.05,
                ),
                widgets.fraction("start", 0.0, "Part of the run where guidance starts.", step=0.05),
                widgets.fraction(
                    "end",
                    0.5,
                    "Part of the run where it ends: the later, the more stays as it was. Try 0.3 to 0.8.",
                    step=0.05,
                ),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi VAE Decode or VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        noise: Latent,
        original: Latent,
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
        strengths = windowed(strength, start, end, len(sigmas) - 1)
        check_latent(original["samples"].shape)
        check_run(model, sigmas.tolist(), noise["samples"], positive, negative)
        if noise["samples"].shape != original["samples"].shape:
            raise MochiError(
                f"noise has the shape {tuple(noise['samples'].shape)} and original "
                f"{tuple(original['samples'].shape)}, but they must be those of one clip: give both to Mochi Invert "
                "and Mochi Resample as they come."
            )
        guider = ScheduledGuider(model, positive, negative, [cfg] * len(strengths))
        return io.NodeOutput(resampled(guider, noise, original, sigmas.tolist(), strengths))
