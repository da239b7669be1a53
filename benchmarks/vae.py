"""Decoding and encoding against diffusers and ComfyUI: `python -m benchmarks.vae [decode|encode|lengths]`.

Decoder of base 32 (encoder of base 16) with the published block structure and random weights, float32 on a CPU; latents
of 8 x 16 x 24, which are 43 frames of 192 x 128. diffusers decodes as a whole, with a hook that makes it drop the empty
first frames where the published decoder does; ComfyUI as a whole too.
"""

import argparse
from collections import deque

import torch
from torch import Tensor

from benchmarks.compare import Contenders, main
from benchmarks.live import peak_bytes
from benchmarks.report import Figures
from mochi.config import DecoderConfig, EncoderConfig
from mochi.vae import Decoder, Encoder
from tests.peers.comfyui import comfyui_decoder, comfyui_encoder
from tests.peers.diffusers import diffusers_vae
from tests.random_weights import randomised

LATENTS, FRAMES = (1, 12, 8, 16, 24), (1, 3, 43, 128, 192)


def networks() -> tuple[Decoder, Encoder]:
    return randomised(Decoder(DecoderConfig(base=32))), randomised(Encoder(EncoderConfig(base=32, groups=32)))


def decoding() -> Contenders:
    z = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))

    def streamed(decoder: Decoder) -> Tensor:
        return torch.cat(list(decoder.stream(z)), dim=2)

    def ours():
        decoder = networks()[0]
        return lambda: streamed(decoder)

    def ours_whole():
        decoder = networks()[0]
        return lambda: decoder(z)

    def diffusers():
        vae = diffusers_vae(*networks())
        return lambda: vae.decode(z).sample

    def comfyui():
        decoder = comfyui_decoder(networks()[0])
        return lambda: decoder(z.clone())

    return {"ours, streamed": ours, "ours, whole": ours_whole, "diffusers": diffusers, "ComfyUI": comfyui}


def encoding() -> Contenders:
    video = torch.rand(FRAMES, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def ours():
        encoder = networks()[1]
        return lambda: encoder.in_pieces(video).mean

    def ours_whole():
        encoder = networks()[1]
        return lambda: encoder(video).mean

    def diffusers():
        vae = diffusers_vae(*networks())
        return lambda: vae.encode(video).latent_dist.mean

    def comfyui():
        encoder = comfyui_encoder(networks()[1])
        return lambda: encoder(video.clone()).mode()

    return {"ours, in pieces": ours, "ours, whole": ours_whole, "diffusers": diffusers, "ComfyUI": comfyui}


def lengths(_: argparse.Namespace) -> Figures:
    """Ours alone, short and long videos, of which no frame is kept: bytes of tensors that are alive at the peak, beside
    weights and input. So a GPU's allocator would count; a process's heap keeps more, by turns."""
    decoder, encoder = networks()

    def decode(frames: int) -> int:
        z = torch.randn(1, 12, (frames - 1) // 6 + 1, *LATENTS[3:])
        return peak_bytes(lambda: deque(decoder.stream(z), maxlen=0), [z, *decoder.parameters()])

    def encode(frames: int) -> int:
        video = torch.rand(1, 3, frames, *FRAMES[3:]) * 2 - 1
        return peak_bytes(lambda: encoder.in_pieces(video), [video, *encoder.parameters()])

    return {
        name: {f"{frames} frames, MB": measure(frames) / 1e6 for frames in (25, 163)}
        for name, measure in {"decode": decode, "encode": encode}.items()
    }


if __name__ == "__main__":
    main("benchmarks.vae", {"decode": decoding, "encode": encoding}, {"lengths": lengths})
