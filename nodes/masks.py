"""Which part of a clip is made anew: room behind it, or an area of its picture."""

from comfy_api.latest import io
from torch import Tensor

from ..mochi.geometry import check_frames
from ..mochi.sampling.masks import extended, latent_mask
from . import widgets
from .host.checks import check_at_most, check_latent, complaint
from .host.sampling.given import GIVEN, GivenFrames, to_be_made
from .host.sockets.latents import noise_mask
from .host.types import Latent


class Extend(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelExtend",
            "Mochi Extend",
            "Makes room behind a clip, or a picture, for Mochi Sampler to go on with it: the clip stays as it is, and "
            "what follows is made to fit.",
            found_as=("extend video", "continue", "image to video", "i2v", "last frame"),
            inputs=[
                io.Latent.Input("samples", tooltip="The clip, from Mochi VAE Encode: 1, 7, 13, ... frames."),
                widgets.frames(
                    7,
                    "Of the whole video, the clip among them: 6k + 1, more than it has. The published model makes 163 "
                    "at most.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For Mochi Sampler or any sampler of ComfyUI, with denoise 1.")],
        )

    @classmethod
    def validate_inputs(cls, frames: int | None) -> bool | str:
        return complaint(check_at_most, "frames", frames, widgets.MAX_FRAMES) or complaint(check_frames, frames) or True

    @classmethod
    def execute(cls, samples: Latent, frames: int) -> io.NodeOutput:
        clip = samples["samples"]
        check_latent(clip.shape)
        waiting = to_be_made(samples)
        made = GIVEN in samples and not waiting  # a video, of which the mask said how
        longer, mask = extended(clip, frames, None if made else noise_mask(samples))
        extension = {**samples, "samples": longer, "noise_mask": mask}
        given = extension.pop(GIVEN, None)
        if waiting:
            extension[GIVEN] = GivenFrames(given.frames, longer)
        return io.NodeOutput(extension)


class NoiseMask(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelNoiseMask",
            "Mochi Noise Mask",
            "Says which area of a clip is made anew. Set Latent Noise Mask does so for single pictures; this one knows "
            "which frames a latent is of, so that an area can move.",
            found_as=("inpaint video", "set latent noise mask", "replace area"),
            inputs=[
                io.Latent.Input("samples", tooltip="The clip, from Mochi VAE Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip="White where something new is made: one picture for all frames, or one for each frame. "
                    "The sampler works on squares of 8 pixels, and makes one anew if any of its pixels is white.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For Mochi Sampler, Mochi Resample, or any sampler of ComfyUI.")],
        )

    @classmethod
    def execute(cls, samples: Latent, mask: Tensor) -> io.NodeOutput:
        clip = samples["samples"]
        check_latent(clip.shape)
        area = latent_mask(mask.reshape(-1, *mask.shape[-2:]), clip)
        levels = noise_mask(samples) if to_be_made(samples) else None
        if levels is not None:  # how much noise given frames get
            area = area * levels.amax((-2, -1), keepdim=True)
        return io.NodeOutput({**samples, "noise_mask": area})
