"""The sampler and its noise schedule."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mochi import geometry
from ..mochi.config import PREVIEW, TINY
from ..mochi.sampling.guidance import parse_cfg, per_step_cfg
from ..mochi.sampling.schedule import SCHEDULES, linear_quadratic, scheduled
from .host.checks import ABSENT, check_at_most, check_conditioning, check_latent, check_patches, check_sigmas, complaint
from .host.sampling.sampler import empty_latent, sample
from .search import also_found_as

CATEGORY = "Mochi"
MAX_SIZE = 16384
MAX_FRAMES = 6 * 2000 + 1
MAX_STEPS = 1000


class Sigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiSigmas",
            display_name="Mochi Sigmas",
            category=CATEGORY,
            **also_found_as("scheduler", "linear quadratic", "noise schedule"),
            description="Mochi's linear-quadratic noise schedule: slow at first, where the video takes shape, then "
            "faster and faster.",
            inputs=[
                io.Int.Input(
                    "steps",
                    default=PREVIEW.defaults.steps,
                    min=1,
                    max=MAX_STEPS,
                    tooltip="Steps of a whole run. The published model likes 64; the distilled one 8.",
                ),
                io.Float.Input(
                    "threshold_noise",
                    default=PREVIEW.defaults.threshold_noise,
                    min=0.001,
                    max=0.999,
                    step=0.005,
                    round=0.001,
                    tooltip="How much of the noise the linear steps take away: 0.025; for the distilled model 0.1.",
                ),
                io.Int.Input(
                    "linear_steps",
                    default=0,
                    min=0,
                    max=MAX_STEPS,
                    tooltip="How many of the steps are linear. 0: half of them. For the distilled model 6 of 8.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the schedule starts later, which keeps something of a given LATENT. 0: nothing "
                    "to do.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For Mochi Sampler or SamplerCustom.")],
        )

    @classmethod
    def validate_inputs(cls, steps: int, threshold_noise: float, linear_steps: int) -> bool | str:
        def check() -> None:
            check_at_most("steps", steps, MAX_STEPS)
            if None not in (steps, threshold_noise, linear_steps):  # linked ones have no value yet
                levels(steps, threshold_noise, linear_steps)

        return complaint(check)

    @classmethod
    def execute(cls, steps: int, threshold_noise: float, linear_steps: int, denoise: float) -> io.NodeOutput:
        if denoise <= 0:
            return io.NodeOutput(torch.zeros(0))
        # As ComfyUI counts: `steps` steps are taken, the end of a schedule that is longer by so much.
        whole = max(steps, int(steps / denoise))
        linear = round(linear_steps * whole / steps)
        return io.NodeOutput(torch.tensor(levels(whole, threshold_noise, linear)[-(steps + 1) :]))


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults, tiny = PREVIEW.defaults, TINY.defaults
        return io.Schema(
            node_id="MochiSampler",
            display_name="Mochi Sampler",
            category=CATEGORY,
            **also_found_as("text to video", "t2v", "generate video", "ksampler"),
            description="Makes the latents of a video from noise, with Mochi's own schedule and Euler steps. The "
            "widgets start with what the published model likes; for the tiny model choose "
            f"{tiny.width} x {tiny.height}, {tiny.frames} frames, {tiny.steps} steps and cfg {tiny.cfg:g}.",
            inputs=[
                io.Model.Input("model", tooltip="From Load AsymmDiT (Mochi), or ComfyUI's own Mochi model."),
                io.Conditioning.Input("positive", tooltip="What the video shows."),
                io.Conditioning.Input("negative", tooltip="What it does not show; usually an empty prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The noise to start from, drawn on the CPU: the same on any device.",
                ),
                io.Int.Input(
                    "steps",
                    default=defaults.steps,
                    min=1,
                    max=MAX_STEPS,
                    tooltip="More steps, more detail. The published model likes 64, the tiny one "
                    f"{tiny.steps}. Ignored when sigmas are given.",
                ),
                io.Float.Input(
                    "cfg",
                    default=defaults.cfg,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    round=0.01,
                    tooltip="How strictly the prompt is followed. At 1 the negative prompt is left out, which is "
                    "twice as fast. The published model likes 6 (its first release 4.5), the distilled one 1.5.",
                ),
                io.Int.Input(
                    "width",
                    default=defaults.width,
                    min=16,
                    max=MAX_SIZE,
                    step=16,
                    tooltip="Of the video, in pixels; a multiple of 16. The published model makes 848, the tiny one "
                    f"{tiny.width}. Ignored when a latent is given.",
                ),
                io.Int.Input(
                    "height",
                    default=defaults.height,
                    min=16,
                    max=MAX_SIZE,
                    step=16,
                    tooltip="Of the video, in pixels; a multiple of 16. The published model makes 480, the tiny one "
                    f"{tiny.height}. Ignored when a latent is given.",
                ),
                io.Int.Input(
                    "frames",
                    default=defaults.frames,
                    min=1,
                    max=MAX_FRAMES,
                    step=6,
                    tooltip="6k + 1, at 30 frames a second: 163 are 5.4 seconds. The tiny model makes "
                    f"{tiny.frames}. Ignored when a latent is given.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many videos to make at once. Ignored when a latent is given.",
                ),
                io.String.Input(
                    "cfg_schedule",
                    optional=True,
                    default="",
                    placeholder="6, 6, 4.5, ...",
                    tooltip="A cfg for each step, with commas between: as many numbers as steps. Empty: the one "
                    "above for all steps.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="mochi",
                    optional=True,
                    tooltip="Of the noise. distilled: for the distilled model (FastMochi), with 8 steps and cfg 1.5. "
                    "Ignored when sigmas are given.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of a given latent is made anew: 1 all of it, 0 nothing. Mochi's schedule has "
                    "much noise for long: of 64 steps, 0.6 starts at 98 % noise, 0.3 at 81 %, 0.1 at 35 %. Ignored "
                    "when sigmas are given.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Latents to start from instead of an empty video of the size above; their noise mask is "
                    "respected.",
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="A noise schedule instead of Mochi's own for `steps` steps."
                ),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi VAE Decode or VAE Decode.")],
        )

    @classmethod
    def validate_inputs(cls, steps, width, height, frames, cfg_schedule="", latent=ABSENT, sigmas=ABSENT) -> bool | str:
        """What can be said of the widgets before anything runs; linked ones are None here."""

        def check() -> None:
            check_at_most("steps", steps, MAX_STEPS)
            check_at_most("width", width, MAX_SIZE)
            check_at_most("height", height, MAX_SIZE)
            check_at_most("frames", frames, MAX_FRAMES)
            if latent is ABSENT and None not in (width, height):
                geometry.check_size(width, height)
            if latent is ABSENT and frames is not None:
                geometry.check_frames(frames)
            if sigmas is ABSENT and steps is not None:
                linear_quadratic(steps)
                guidance_scales(1.0, cfg_schedule or "", steps)

        return complaint(check)

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        seed: int,
        steps: int,
        cfg: float,
        width: int,
        height: int,
        frames: int,
        batch_size: int = 1,
        cfg_schedule: str = "",
        schedule: str = "mochi",
        denoise: float = 1.0,
        latent: dict | None = None,
        sigmas: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        levels = cut_schedule(schedule, steps, denoise) if sigmas is None else sigmas.tolist()
        if len(levels) < 2 and latent is not None:
            return io.NodeOutput(latent)  # a schedule of denoise 0
        scales = guidance_scales(cfg, cfg_schedule, len(levels) - 1)
        if latent is None:
            geometry.check_size(width, height)
            geometry.check_frames(frames)
            latent = empty_latent(width, height, frames, batch_size)
        check_sigmas(levels)
        check_latent(latent["samples"])
        check_patches(latent["samples"])
        check_conditioning(model, positive, negative)
        return io.NodeOutput(sample(model, positive, negative, latent, seed, levels, scales))


def cut_schedule(schedule: str, steps: int, denoise: float) -> list[float]:
    """The last `steps` steps of a schedule that is longer by as much as `denoise` is below 1, as ComfyUI counts. Of
    denoise 0 nothing is left."""
    return scheduled(schedule, max(steps, int(steps / denoise)))[-(steps + 1) :] if denoise > 0 else []


def levels(steps: int, threshold_noise: float, linear_steps: int) -> list[float]:
    """Mochi's schedule; 0 linear steps stand for half of them."""
    return linear_quadratic(steps, threshold_noise, linear_steps or None)


def guidance_scales(cfg: float, cfg_schedule: str, steps: int) -> list[float]:
    """A guidance scale for each step, from the number or, where there is one, the list. Raises MochiError."""
    return per_step_cfg(parse_cfg(cfg_schedule) if cfg_schedule.strip() else cfg, steps)
