"""VAE under built-in nodes."""

import shutil

import pytest
import torch

from mochi.config import TINY_WEIGHTS
from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import FRAMES, HEIGHT, WIDTH, Link

SECTION = "VAE"
WHOLE = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}


def scaled(g: CheckedGraph, width: int, height: int) -> Link:
    """The frames of our video at another size."""
    return g(
        "ImageScale", image=g.decoded(g.ours()), upscale_method="bilinear", width=width, height=height, crop="disabled"
    )


@pytest.mark.mixed("Load AsymmVAE, Mochi Sampler", "VAE Decode", "Mochi VAE Decode")
def test_decode(g: CheckedGraph) -> None:
    g.assert_same_frames(g("VAEDecode", vae=g.vae, samples=g.ours()), g.decoded(g.ours()))


@pytest.mark.mixed("Load AsymmVAE, Mochi Sampler", "VAE Decode (Tiled), one tile", "Mochi VAE Decode")
def test_decode_tiled(g: CheckedGraph) -> None:
    g.assert_same_frames(g("VAEDecodeTiled", vae=g.vae, samples=g.ours(), **WHOLE), g.decoded(g.ours()))


@pytest.mark.mixed(
    "Load AsymmVAE, Mochi Sampler", "VAE Decode (Tiled), four tiles", "Mochi VAE Decode, to which it is near"
)
def test_decode_in_tiles(g: CheckedGraph) -> None:
    large = {"width": 112, "height": 96, "frames": 7}
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    tiled = g("VAEDecodeTiled", vae=g.vae, samples=g.ours(**large), **tiles)
    made, whole = g.run(g.encoded(tiled), g.encoded(g.decoded(g.ours(**large))))
    assert made.shape == whole.shape
    # Alike, as pictures are: a tile does not see beyond its borders.
    assert torch.corrcoef(torch.stack([made.flatten(), whole.flatten()]))[0, 1] > 0.95
    g.note("near")


@pytest.mark.mixed("Load AsymmVAE, Mochi VAE Encode", "VAE Encode", "Mochi VAE Encode")
def test_encode(g: CheckedGraph) -> None:
    frames = g.decoded(g.ours())
    g.assert_equal(g("VAEEncode", vae=g.vae, pixels=frames), g.encoded(frames))


@pytest.mark.mixed("Load AsymmVAE, Mochi VAE Encode", "VAE Encode (Tiled), one tile", "Mochi VAE Encode")
def test_encode_tiled(g: CheckedGraph) -> None:
    frames = g.decoded(g.ours())
    g.assert_equal(g("VAEEncodeTiled", vae=g.vae, pixels=frames, **WHOLE), g.encoded(frames))


@pytest.mark.mixed(
    "Load AsymmVAE, Mochi VAE Encode",
    "ImageScale, ImageCrop, VAE Encode",
    "Mochi VAE Encode of what VAE Encode crops to",
)
def test_encode_crops(g: CheckedGraph) -> None:
    frames = scaled(g, WIDTH + 6, HEIGHT + 4)
    cropped = g("ImageCrop", image=frames, width=WIDTH, height=HEIGHT, x=3, y=2)
    g.assert_equal(g("VAEEncode", vae=g.vae, pixels=frames), g.encoded(cropped))


@pytest.mark.mixed("Mochi VAE Encode", "ImageScale", "Mochi VAE Encode crops nothing")
def test_odd_size_refused(g: CheckedGraph) -> None:
    latent = g("MochiParallelVAEEncode", vae=g.vae, pixels=scaled(g, WIDTH + 6, HEIGHT))
    g.assert_refused(latent, "MochiParallelVAEEncode", "must be a multiple of 16: the nearest is 48")


@pytest.mark.mixed("Mochi VAE Encode", "ImageFromBatch, of 10 frames", "a video has 6k + 1 frames")
def test_odd_length_refused(g: CheckedGraph) -> None:
    latent = g("MochiParallelVAEEncode", vae=g.vae, pixels=g.frames(g.ours(), 0, 10))
    g.assert_refused(latent, "MochiParallelVAEEncode", "the nearest is 13")


@pytest.mark.mixed(
    "Load AsymmVAE, Mochi VAE Encode", "ImageFromBatch, VAE Encode", "the first latents of the whole video"
)
def test_encode_the_beginning(g: CheckedGraph) -> None:
    whole = g.encoded(g.decoded(g.ours()))
    start = g("LatentCut", samples=whole, dim="t", index=0, amount=2)
    g.assert_equal(g("VAEEncode", vae=g.vae, pixels=g.frames(g.ours(), 0, 7)), start)


@pytest.mark.mixed(
    "Mochi VAE Encode, Mochi Sampler",
    "VAE Encode, KSampler, denoise 0.5",
    "Mochi VAE Encode and Mochi Sampler with BasicScheduler of that denoise",
)
def test_video_to_video(g: CheckedGraph) -> None:
    latent = g("VAEEncode", vae=g.vae, pixels=g.decoded(g.ours(seed=1)))
    sigmas = g("BasicScheduler", model=g.single, scheduler="linear_quadratic", steps=4, denoise=0.5)
    g.assert_equal(
        g.ksampler(latent_image=latent, denoise=0.5), g.ours(latent=g.encoded(g.decoded(g.ours(seed=1))), sigmas=sigmas)
    )


@pytest.mark.mixed("Load AsymmVAE", "VAE Decode, of a batch", "the frames of each video, one after the other")
def test_decode_batch(g: CheckedGraph) -> None:
    both = g("VAEDecode", vae=g.vae, samples=g("LatentBatch", samples1=g.ours(seed=1), samples2=g.ours(seed=2)))
    for i in (0, 1):
        part = g("ImageFromBatch", image=both, batch_index=FRAMES * i, length=FRAMES)
        g.assert_same_frames(part, g.decoded(g.ours(seed=i + 1)))


@pytest.mark.mixed("Load AsymmVAE without an encoder", "VAE Encode", "there is nothing to encode with")
def test_no_encoder_refused(g: CheckedGraph) -> None:
    spread = {"parallel": g.parallel} if g.ranks > 1 else {}
    vae = g("MochiParallelLoadVAE", file=decoder_only(g), encoder_file="in the file itself", dtype="auto", **spread)
    latent = g("VAEEncode", vae=vae, pixels=g.decoded(g.ours()))
    g.assert_refused(latent, "VAEEncode", "Choose an encoder file")


def decoder_only(g: CheckedGraph) -> str:
    """The decoder of the tiny model in a file of its own, as the published one is."""
    target = g.comfy.models / "vae" / "decoder_only.safetensors"
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        shutil.copy(TINY_WEIGHTS / "decoder.safetensors", target)
    return target.name
