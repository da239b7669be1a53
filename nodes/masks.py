"""What of a clip is made anew: room behind it, or an area of its picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..mochi.config import PREVIEW
from ..mochi.geometry import check_frames
from ..mochi.sampling.masks import extended, latent_mask
from .host.checks import check_at_most, check_latent, complaint
from .host.sockets.latents import noise_mask
from .sampler import MAX_FRAMES
from .search import also_found_as

CATEGORY = "Mochi"


class Extend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiExtend",
            display_name="Mochi Extend",
            category=CATEGORY,
            **also_found_as("extend video", "continue", "image to video", "i2v", "last frame"),
            description="Makes room behind a clip, or a picture, for Mochi Sampler to go on with it: the clip stays as "
            "it is, and what follows is made to fit.",
            inputs=[
                io.Latent.Input("samples", tooltip="The clip, from Mochi VAE Encode: 1, 7, 13, ... frames."),
                io.Int.Input(
                    "frames",
                    default=PREVIEW.defaults.frames,
                    min=7,
                    max=MAX_FRAMES,
                    step=6,
                    tooltip="Of the whole video, the clip among them: 6k + 1, more than it has. The published model "
                    "makes 163 at most.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For Mochi Sampler or any sampler of ComfyUI, with denoise 1.")],
        )

    @classmethod
    def validate_inputs(cls, frames) -> bool | str:
        def check() -> None:
            check_at_most("frames", frames, MAX_FRAMES)
            if frames is not None:
                check_frames(frames)

        return complaint(check)

    @classmethod
    def execute(cls, samples: dict, frames: int) -> io.NodeOutput:
        check_latent(samples["samples"])
        longer, mask = extended(samples["samples"], frames, noise_mask(samples))
        return io.NodeOutput({**samples, "samples": longer, "noise_mask": mask})


class NoiseMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiNoiseMask",
            display_name="Mochi Noise Mask",
            category=CATEGORY,
            **also_found_as("inpaint video", "set latent noise mask", "replace area"),
            description="Says which area of a clip is made anew. Set Latent Noise Mask does so for single pictures; "
            "this one knows which frames a latent is of, so that an area can move.",
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
    def execute(cls, samples: dict, mask: torch.Tensor) -> io.NodeOutput:
        clip = samples["samples"]
        check_latent(clip)
        mask = mask.reshape(-1, *mask.shape[-2:])
        return io.NodeOutput({**samples, "noise_mask": latent_mask(mask, clip)})
