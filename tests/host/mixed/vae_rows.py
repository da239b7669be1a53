"""VAE under built-in nodes."""

from __future__ import annotations

import shutil

import torch

from mochi.config import TINY_WEIGHTS
from tests.host.mixed.checks import equal, holds, refused, same_frames
from tests.host.mixed.graph import FRAMES, HEIGHT, WIDTH, Graph, Link
from tests.host.mixed.rows import Section

VAE = Section("VAE")
WHOLE = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}


def scaled(g: Graph, width: int, height: int) -> Link:
    """The frames of our video at another size."""
    return g(
        "ImageScale", image=g.decoded(g.ours()), upscale_method="bilinear", width=width, height=height, crop="disabled"
    )


@VAE.row("Load AsymmVAE, Mochi Sampler", "VAE Decode", "Mochi VAE Decode")
def decode(g: Graph):
    yield same_frames(g, g("VAEDecode", vae=g.vae, samples=g.ours()), g.decoded(g.ours()))


@VAE.row("Load AsymmVAE, Mochi Sampler", "VAE Decode (Tiled), one tile", "Mochi VAE Decode")
def decode_tiled(g: Graph):
    yield same_frames(g, g("VAEDecodeTiled", vae=g.vae, samples=g.ours(), **WHOLE), g.decoded(g.ours()))


@VAE.row("Load AsymmVAE, Mochi Sampler", "VAE Decode (Tiled), four tiles", "Mochi VAE Decode, to which it is near")
def decode_in_tiles(g: Graph):
    large = {"width": 112, "height": 96, "frames": 7}
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    tiled = g("VAEDecodeTiled", vae=g.vae, samples=g.ours(**large), **tiles)
    yield holds(near, g.encoded(tiled), g.encoded(g.decoded(g.ours(**large))), words="near")


def near(made: torch.Tensor, whole: torch.Tensor) -> None:
    """Like, as pictures are: tiles do not see beyond their borders."""
    assert made.shape == whole.shape
    assert torch.corrcoef(torch.stack([made.flatten(), whole.flatten()]))[0, 1] > 0.95


@VAE.row("Load AsymmVAE, Mochi VAE Encode", "VAE Encode", "Mochi VAE Encode")
def encode(g: Graph):
    frames = g.decoded(g.ours())
    yield equal(g("VAEEncode", vae=g.vae, pixels=frames), g.encoded(frames))


@VAE.row("Load AsymmVAE, Mochi VAE Encode", "VAE Encode (Tiled), one tile", "Mochi VAE Encode")
def encode_tiled(g: Graph):
    frames = g.decoded(g.ours())
    yield equal(g("VAEEncodeTiled", vae=g.vae, pixels=frames, **WHOLE), g.encoded(frames))


@VAE.row(
    "Load AsymmVAE, Mochi VAE Encode",
    "ImageScale, ImageCrop, VAE Encode",
    "Mochi VAE Encode of what VAE Encode crops to",
)
def encode_crops(g: Graph):
    frames = scaled(g, WIDTH + 6, HEIGHT + 4)
    cropped = g("ImageCrop", image=frames, width=WIDTH, height=HEIGHT, x=3, y=2)
    yield equal(g("VAEEncode", vae=g.vae, pixels=frames), g.encoded(cropped))


@VAE.row("Mochi VAE Encode", "ImageScale", "Mochi VAE Encode crops nothing")
def odd_size_refused(g: Graph):
    latent = g("MochiVAEEncode", vae=g.vae, pixels=scaled(g, WIDTH + 6, HEIGHT))
    yield refused(latent, "MochiVAEEncode", "must be a multiple of 16: the nearest is 48")


@VAE.row("Mochi VAE Encode", "ImageFromBatch, of 10 frames", "a video has 6k + 1 frames")
def odd_length_refused(g: Graph):
    latent = g("MochiVAEEncode", vae=g.vae, pixels=g.frames(g.ours(), 0, 10))
    yield refused(latent, "MochiVAEEncode", "the nearest is 13")


@VAE.row("Load AsymmVAE, Mochi VAE Encode", "ImageFromBatch, VAE Encode", "the first latents of the whole video")
def encode_the_beginning(g: Graph):
    whole = g.encoded(g.decoded(g.ours()))
    start = g("LatentCut", samples=whole, dim="t", index=0, amount=2)
    yield equal(g("VAEEncode", vae=g.vae, pixels=g.frames(g.ours(), 0, 7)), start)


@VAE.row(
    "Mochi VAE Encode, Mochi Sampler",
    "VAE Encode, KSampler, denoise 0.5",
    "Mochi VAE Encode and Mochi Sampler with BasicScheduler of that denoise",
)
def video_to_video(g: Graph):
    latent = g("VAEEncode", vae=g.vae, pixels=g.decoded(g.ours(seed=1)))
    sigmas = g("BasicScheduler", model=g.single, scheduler="linear_quadratic", steps=4, denoise=0.5)
    yield equal(
        g.ksampler(latent_image=latent, denoise=0.5), g.ours(latent=g.encoded(g.decoded(g.ours(seed=1))), sigmas=sigmas)
    )


@VAE.row("Load AsymmVAE", "VAE Decode, of a batch", "the frames of each video, one after the other")
def decode_batch(g: Graph):
    both = g("VAEDecode", vae=g.vae, samples=g("LatentBatch", samples1=g.ours(seed=1), samples2=g.ours(seed=2)))
    for i in (0, 1):
        part = g("ImageFromBatch", image=both, batch_index=FRAMES * i, length=FRAMES)
        yield same_frames(g, part, g.decoded(g.ours(seed=i + 1)))


@VAE.row("Load AsymmVAE without an encoder", "VAE Encode", "there is nothing to encode with")
def no_encoder_refused(g: Graph):
    spread = {"parallel": g.parallel} if g.ranks > 1 else {}
    vae = g("MochiLoadVAE", file=decoder_only(g), encoder_file="in the file itself", dtype="auto", **spread)
    latent = g("VAEEncode", vae=vae, pixels=g.decoded(g.ours()))
    yield refused(latent, "VAEEncode", "Choose an encoder file")


def decoder_only(g: Graph) -> str:
    """The decoder of the tiny model in a file of its own, as the published one is."""
    target = g.comfy.models / "vae" / "decoder_only.safetensors"
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        shutil.copy(TINY_WEIGHTS / "decoder.safetensors", target)
    return target.name
