"""Latents to frames and back."""

from __future__ import annotations

from comfy_api.latest import io

from ..mochi import geometry
from .host.checks import check_latent

CATEGORY = "Mochi"


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiVAEDecode",
            display_name="Mochi VAE Decode",
            category=CATEGORY,
            description="Decodes latents into the frames of a video. VAE Decode does the same.",
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), or ComfyUI's own Mochi VAE."),
                io.Latent.Input("samples", tooltip="From Mochi Sampler, or any sampler of ComfyUI."),
            ],
            outputs=[io.Image.Output(tooltip="The frames; those of a batch of videos one video after the other.")],
        )

    @classmethod
    def execute(cls, vae, samples: dict) -> io.NodeOutput:
        latents = samples["samples"]
        check_latent(latents)
        return io.NodeOutput(vae.decode(latents).flatten(0, 1))


class VAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MochiVAEEncode",
            display_name="Mochi VAE Encode",
            category=CATEGORY,
            description="Encodes the frames of a video into latents. VAE Encode does the same, but crops what does "
            "not fit.",
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), with an encoder."),
                io.Image.Input("pixels", tooltip="6k + 1 frames, with sides that are multiples of 16 pixels."),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi Sampler or any sampler of ComfyUI.")],
        )

    @classmethod
    def execute(cls, vae, pixels) -> io.NodeOutput:
        frames, height, width = pixels.shape[:3]
        geometry.check_frames(frames)
        geometry.check_size(width, height)
        return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})
