"""The sampler and its noise schedule."""

from collections.abc import Callable

import torch
from comfy_api.latest import io

from ..mochi import geometry
from ..mochi.config import PREVIEW, TINY
from ..mochi.sampling.guidance import SkipLayers, parse_cfg, parse_layers, per_step_cfg
from ..mochi.sampling.schedule import linear_quadratic, scheduled
from . import widgets
from .host.checks import ABSENT, check_at_most, check_range, check_run, complaint, depth
from .host.sampling.given import as_taken
from .host.sampling.loop import ScheduledGuider
from .host.sampling.sampler import empty_latent, sample
from .host.types import Conditioning, Latent, Model
from .widgets import MAX_FRAMES, MAX_SIZE, MAX_STEPS


class Sigmas(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelSigmas",
            "Mochi Sigmas",
            "Mochi's linear-quadratic noise schedule: slow at first, where the video takes shape, then faster and "
            "faster.",
            found_as=("scheduler", "linear quadratic", "noise schedule"),
            inputs=[
                widgets.steps("Steps of a whole run. The published model likes 64; the distilled one 8."),
                widgets.number(
                    "threshold_noise",
                    PREVIEW.defaults.threshold_noise,
                    (0.001, 0.999),
                    "How much of the noise the linear steps take away: 0.025; for the distilled model 0.1.",
                    step=0.005,
                    round=0.001,
                ),
                widgets.count(
                    "linear_steps",
                    0,
                    (0, MAX_STEPS),
                    "How many of the steps are linear. 0: half of them. For the distilled model 6 of 8.",
                ),
                widgets.fraction(
                    "denoise",
                    1.0,
                    "Below 1 the schedule starts later, which keeps something of a given LATENT. 0: nothing to do.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For Mochi Sampler or SamplerCustom.")],
        )

    @classmethod
    def validate_inputs(cls, steps: int, threshold_noise: float, linear_steps: int) -> bool | str:
        return (
            complaint(check_at_most, "steps", steps, MAX_STEPS)
            or complaint(levels, steps, threshold_noise, linear_steps)
            or True
        )

    @classmethod
    def execute(cls, steps: int, threshold_noise: float, linear_steps: int, denoise: float) -> io.NodeOutput:
        def whole(total: int) -> list[float]:
            return levels(total, threshold_noise, round(linear_steps * total / steps))

        return io.NodeOutput(torch.tensor(last_part(whole, steps, denoise)))


class Sampler(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults, tiny = PREVIEW.defaults, TINY.defaults
        return widgets.schema(
            "MochiParallelSampler",
            "Mochi Sampler",
            "Makes the latents of a video from noise, with Mochi's own schedule and Euler steps. The widgets start "
            "with what the published model likes; for the tiny model choose "
            f"{tiny.width} x {tiny.height}, {tiny.frames} frames, {tiny.steps} steps and cfg {tiny.cfg:g}.",
            found_as=("text to video", "t2v", "generate video", "ksampler"),
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
                widgets.steps(
                    "More steps, more detail. The published model likes 64, the tiny one "
                    f"{tiny.steps}. Ignored when sigmas are given."
                ),
                widgets.cfg(
                    "How strictly the prompt is followed. At 1 the negative prompt is left out, which is twice as "
                    "fast. The published model likes 6 (its first release 4.5), the distilled one 1.5."
                ),
                widgets.side("width", defaults.width, tiny.width),
                widgets.side("height", defaults.height, tiny.height),
                widgets.frames(
                    1,
                    "6k + 1, at 30 frames a second: 163 are 5.4 seconds. The tiny model makes "
                    f"{tiny.frames}. Ignored when a latent is given.",
                ),
                widgets.count(
                    "batch_size", 1, (1, 64), "How many videos to make at once. Ignored when a latent is given."
                ),
                io.String.Input(
                    "cfg_schedule",
                    optional=True,
                    default="",
                    placeholder="6, 6, 4.5, ...",
                    tooltip="A cfg for each step, with commas between: as many numbers as steps. Empty: the one "
                    "above for all steps.",
                ),
                widgets.schedule(
                    "Of the noise. distilled: for the distilled model (FastMochi), with 8 steps and cfg 1.5. "
                    "Ignored when sigmas are given."
                ),
                widgets.fraction(
                    "denoise",
                    1.0,
                    "How much of a given latent is made anew: 1 all of it, 0 nothing. Mochi's schedule has much noise "
                    "for long: of 64 steps, 0.6 starts at 98 % noise, 0.3 at 81 %, 0.1 at 35 %. Ignored when sigmas "
                    "are given.",
                    optional=True,
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
                widgets.number(
                    "stg_scale",
                    0.0,
                    (0.0, 10.0),
                    "Skip-layer guidance (STG): away from what the model makes when it leaves a layer out. Sharper, "
                    "but a step takes half as long again. 0: off. Published for Mochi: 1.",
                    step=0.1,
                    round=0.01,
                    optional=True,
                ),
                io.String.Input(
                    "stg_layers",
                    optional=True,
                    default="34",
                    tooltip="The layers that are left out, from 0, with commas between: 34 for the published model, "
                    f"which has 48; {tiny.stg_layers[0]} for the tiny one, which has {TINY.dit.depth}.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi VAE Decode or VAE Decode.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        steps: int | None,
        width: int | None,
        height: int | None,
        frames: int | None,
        cfg_schedule: str | None = "",
        stg_scale: float | None = 0.0,
        stg_layers: str | None = "34",
        latent: object = ABSENT,
        sigmas: object = ABSENT,
    ) -> bool | str:
        """Check the widgets before anything runs. Linked ones are None here."""
        found = complaint(check_at_most, "steps", steps, MAX_STEPS)
        found = found or complaint(check_at_most, "width", width, MAX_SIZE)
        found = found or complaint(check_at_most, "height", height, MAX_SIZE)
        found = found or complaint(check_at_most, "frames", frames, MAX_FRAMES)
        if latent is ABSENT:
            found = found or complaint(geometry.check_size, width, height) or complaint(geometry.check_frames, frames)
        if sigmas is ABSENT:
            found = found or complaint(linear_quadratic, steps)
            found = found or complaint(guidance_scales, 1.0, cfg_schedule or "", steps, widget="cfg_schedule")
        if stg_scale:
            found = found or complaint(parse_layers, stg_layers)
        return found or complaint(check_range, "stg_scale", stg_scale, 0, 10) or True

    @classmethod
    def execute(
        cls,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
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
        stg_scale: float = 0.0,
        stg_layers: str = "34",
        latent: Latent | None = None,
        sigmas: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if sigmas is None:
            levels = last_part(lambda total: scheduled(schedule, total), steps, denoise)
        else:
            levels = sigmas.tolist()
        if len(levels) < 2 and latent is not None:
            return io.NodeOutput(latent)  # a schedule of denoise 0
        scales = guidance_scales(cfg, cfg_schedule, len(levels) - 1)
        if latent is None:
            latent = empty_latent(width, height, frames, batch_size)
        check_run(model, levels, latent["samples"], positive, negative)
        if not scales:
            return io.NodeOutput(latent)
        skip = None
        if stg_scale:
            skip = SkipLayers(parse_layers(stg_layers), stg_scale)
            skip.check(depth(model))
        guider = ScheduledGuider(model, positive, negative, scales, skip)
        return io.NodeOutput(sample(guider, as_taken(model, latent), seed, levels))


def last_part(schedule: Callable[[int], list[float]], steps: int, denoise: float) -> list[float]:
    """The last `steps` steps of a schedule of `steps / denoise` steps, as ComfyUI counts; no steps at denoise 0.

    schedule: gives the noise levels of a whole run of so many steps.
    """
    return schedule(max(steps, int(steps / denoise)))[-(steps + 1) :] if denoise > 0 else []


def levels(steps: int, threshold_noise: float, linear_steps: int) -> list[float]:
    """Mochi's schedule; 0 linear steps stand for half of them."""
    return linear_quadratic(steps, threshold_noise, linear_steps or None)


def guidance_scales(cfg: float, cfg_schedule: str, steps: int) -> list[float]:
    """A guidance scale for each step, from the number or, where there is one, the list. Raises MochiError."""
    return per_step_cfg(parse_cfg(cfg_schedule) if cfg_schedule.strip() else cfg, steps)
