"""Latents to frames and back."""

from comfy_api.latest import io
from torch import Tensor

from ..mochi import geometry
from ..mochi.geometry import SPACE
from . import widgets
from .host.checks import check_latent
from .host.sockets.vae import MochiVAE
from .host.types import Latent, Vae

TILE_LEAST = 64  # with an overlap of 16 pixels, two latents


class VAEDecode(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelVAEDecode",
            "Mochi VAE Decode",
            "Decodes latents into the frames of a video. VAE Decode does the same.",
            found_as=("latent to video", "decode latent"),
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), or ComfyUI's own Mochi VAE."),
                io.Latent.Input("samples", tooltip="From Mochi Sampler, or any sampler of ComfyUI."),
                widgets.count(
                    "chunk",
                    0,
                    (0, 64),
                    "Latent frames (6 frames each) to decode at a time; the result is the same. 0: what suits the free "
                    "memory. 1 takes the least. A group of GPUs decides itself.",
                    optional=True,
                ),
                widgets.count(
                    "tile",
                    0,
                    (0, 4096),
                    "0: whole frames, exact. Else the side in pixels of overlapped tiles: APPROXIMATE, with seams and "
                    "shifts of colour, for a GPU that cannot hold a single latent frame. Try 512, then 256.",
                    step=16,
                    optional=True,
                ),
            ],
            outputs=[io.Image.Output(tooltip="The frames; those of a batch of videos one video after the other.")],
        )

    @classmethod
    def execute(cls, vae: Vae, samples: Latent, chunk: int = 0, tile: int = 0) -> io.NodeOutput:
        latents = samples["samples"]
        check_latent(latents.shape)
        if tile:
            side = max(TILE_LEAST, tile) // SPACE
            frames = vae.decode_tiled(latents, tile_x=side, tile_y=side, overlap=side // 4)
        elif chunk and isinstance(vae, MochiVAE):
            frames = vae.decode(latents, {"chunk": chunk})
        else:
            frames = vae.decode(latents)
        return io.NodeOutput(frames.flatten(0, 1))


class VAEEncode(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelVAEEncode",
            "Mochi VAE Encode",
            "Encodes the frames of a video into latents. VAE Encode does the same, but crops what does not fit.",
            found_as=("video to latent", "video to video", "encode frames"),
            inputs=[
                io.Vae.Input("vae", tooltip="From Load AsymmVAE (Mochi), with an encoder."),
                io.Image.Input("pixels", tooltip="6k + 1 frames, with sides that are multiples of 16 pixels."),
            ],
            outputs=[io.Latent.Output(tooltip="VAE latents, for Mochi Sampler or any sampler of ComfyUI.")],
        )

    @classmethod
    def execute(cls, vae: Vae, pixels: Tensor) -> io.NodeOutput:
        frames, height, width = pixels.shape[:3]
        geometry.check_frames(frames)
        geometry.check_size(width, height)
        return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})
