"""LATENT between our nodes and built-in ones."""

from __future__ import annotations

import shutil

import torch

from tests.host.mixed.checks import equal, holds, refused, same_frames
from tests.host.mixed.graph import HEIGHT, SIZE, WIDTH, Graph, Link, Output, difference, latent_file
from tests.host.mixed.rows import Section

LATENT = Section("LATENT")


@LATENT.row("Mochi Sampler", "LatentBatch, SamplerCustom", "each of the two by itself")
def latent_batch(g: Graph):
    first, second = g.ours(seed=1), g.ours(seed=2)
    both = g("LatentBatch", samples1=first, samples2=second)
    part = {"sigmas": g.split(g.sigmas(), 2)[1]}
    made = g.custom(latent_image=both, **part)
    for i, one in enumerate((first, second)):
        yield equal(g("LatentFromBatch", samples=made, batch_index=i, length=1), g.ours(latent=one, **part))


@LATENT.row("Mochi Sampler", "RepeatLatentBatch, LatentFromBatch, KSampler", "each seed of the batch by itself")
def repeat_latent_batch(g: Graph):
    many = g("RepeatLatentBatch", samples=g.empty(), amount=3)
    made = g.mochi(latent=many)
    yield equal(made, g.ours(batch_size=3))
    for i in range(3):
        alone = g("LatentFromBatch", samples=many, batch_index=i, length=1)
        yield equal(g.ksampler(latent_image=alone), g("LatentFromBatch", samples=made, batch_index=i, length=1))


@LATENT.row("Mochi Sampler", "EmptyMochiLatentVideo, Rebatch Latents", "the same batch, made at once")
def rebatch(g: Graph):
    parts = g("RebatchLatents", latents=g.empty(batch=2), batch_size=1)
    joined = g("RebatchLatents", latents=g.mochi(latent=parts), batch_size=2)
    yield equal(joined, g.ours(batch_size=2))


@LATENT.row("Mochi Sampler, Mochi VAE Decode", "LatentCut, LatentConcat along time", "the latents as they were")
def cut_and_concat(g: Graph):
    made = g.mochi()
    parts = [g("LatentCut", samples=made, dim="t", index=i, amount=n) for i, n in ((0, 1), (1, 2))]
    joined = g("LatentConcat", samples1=parts[0], samples2=parts[1], dim="t")
    yield equal(joined, made, within=0)
    yield same_frames(g, g("VAEDecode", vae=g.vae, samples=joined), g.decoded(g.ours()))


@LATENT.row(
    "Mochi Sampler, Load AsymmVAE",
    "LatentCut along time, VAE Decode, ImageFromBatch",
    "the first frames of the whole video",
)
def cut_is_the_beginning(g: Graph):
    start = g("LatentCut", samples=g.mochi(), dim="t", index=0, amount=2)
    yield same_frames(g, g("VAEDecode", vae=g.vae, samples=start), g.frames(g.ours(), 0, 7))


@LATENT.row("Mochi Sampler", "LatentAdd, LatentSubtract, LatentMultiply", "the latents as they were")
def arithmetic(g: Graph):
    first, second = g.mochi(seed=1), g.mochi(seed=2)
    both = g("LatentAdd", samples1=first, samples2=second)
    yield equal(g("LatentSubtract", samples1=both, samples2=second), g.ours(seed=1))
    twice = g("LatentAdd", samples1=first, samples2=first)
    yield equal(g("LatentMultiply", samples=twice, multiplier=0.5), g.ours(seed=1))


@LATENT.row("Mochi Sampler", "SaveLatent, LoadLatent, SamplerCustom", "Mochi Sampler twice, without a file between")
def save_and_load(g: Graph):
    made, part = g.mochi(seed=1), {"sigmas": g.split(g.sigmas(), 2)[1]}
    name = f"mixed{g.ranks}.latent"
    ((saved,),) = g.run(latent_file(made))
    shutil.copy(saved, g.comfy.base / "input" / name)
    loaded = g("LoadLatent", latent=name)
    yield equal(loaded, made, within=0)
    yield equal(g.custom(latent_image=loaded, **part), g.ours(latent=g.ours(seed=1), **part))


def left_half(g: Graph) -> Link:
    """A mask of the left half of the picture: 1 where there is to be noise."""
    none, half = (g("SolidMask", value=value, width=w, height=HEIGHT) for value, w in ((0.0, WIDTH), (1.0, WIDTH // 3)))
    return g("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")


@LATENT.row(
    "Mochi Sampler",
    "SetLatentNoiseMask, MaskComposite, KSampler",
    "Mochi Sampler with the mask; what is masked stays",
)
def noise_mask(g: Graph):
    start = g.ours(seed=1)
    masked = g("SetLatentNoiseMask", samples=start, mask=left_half(g))

    def kept(made: torch.Tensor, start: torch.Tensor) -> None:
        # The mask is scaled to the latents with soft borders, of a column.
        assert difference(made[..., 3:], start[..., 3:]) < 1e-5
        assert difference(made[..., :1], start[..., :1]) > 0.1

    yield equal(g.ksampler(latent_image=masked), g.ours(latent=masked))
    yield holds(kept, g.ksampler(latent_image=masked), start, words="the rest is kept")
    yield holds(kept, g.mochi(latent=masked), start, words="the rest is kept")


@LATENT.row(
    "Mochi Sampler",
    "SetLatentNoiseMask, SolidMask",
    "no mask, where it is 1 all over; nothing changes where it is 0",
)
def solid_mask(g: Graph):
    start = g.ours(seed=1)
    all_, none = (g("SolidMask", value=value, width=WIDTH, height=HEIGHT) for value in (1.0, 0.0))
    yield equal(g.mochi(latent=g("SetLatentNoiseMask", samples=start, mask=all_)), g.ours(latent=start))
    yield equal(g.mochi(latent=g("SetLatentNoiseMask", samples=start, mask=none)), start)


@LATENT.row("Mochi Extend", "KSampler, SamplerCustom", "Mochi Sampler with the same; the clip stays")
def extend(g: Graph):
    clip = g("LatentCut", samples=g.ours(seed=1), dim="t", index=0, amount=1)
    longer = g("MochiExtend", samples=clip, frames=SIZE["frames"])

    def kept(made: torch.Tensor, start: torch.Tensor) -> None:
        assert difference(made[:, :, :1], start) < 1e-5

    yield equal(g.ksampler(latent_image=longer), g.ours(latent=longer))
    yield equal(g.custom(latent_image=longer), g.ours(latent=longer))
    yield holds(kept, g.ours(latent=longer), clip, words="the clip stays")


@LATENT.row("Mochi Noise Mask", "MaskComposite, KSampler", "Mochi Sampler with the same")
def own_mask(g: Graph):
    masked = g("MochiNoiseMask", samples=g.ours(seed=1), mask=left_half(g))
    yield equal(g.ksampler(latent_image=masked), g.ours(latent=masked))


@LATENT.row("Mochi Sampler", "LatentUpscaleBy, SamplerCustom", "Mochi Sampler with the same, at the larger size")
def latent_upscale(g: Graph):
    larger = g("LatentUpscaleBy", samples=g.ours(), upscale_method="bilinear", scale_by=2.0)
    part = {"sigmas": g.split(g.sigmas(), 2)[1]}
    yield equal(g.custom(latent_image=larger, **part), g.ours(latent=larger, **part))

    def sizes(made: torch.Tensor) -> None:
        assert made.shape == (1, 12, 3, HEIGHT // 4, WIDTH // 4)

    yield holds(sizes, g.mochi(latent=larger, **part), words="")


@LATENT.row("Load AsymmDiT", "Empty Latent Image, KSampler", "Mochi Sampler of one frame")
def empty_image(g: Graph):
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    yield equal(g.ksampler(latent_image=empty), g.ours(**{**SIZE, "frames": 1}))


@LATENT.row("Mochi Sampler, Mochi VAE Decode", "Empty Latent Image", "an image is no video")
def empty_image_refused(g: Graph):
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    yield refused(g.mochi(latent=empty), "MochiSampler", "Use Empty Mochi Latent Video or Mochi VAE Encode")
    decoded = Output("PreviewImage", {"images": g("MochiVAEDecode", vae=g.vae, samples=empty)})
    yield refused(decoded, "MochiVAEDecode", "Use Empty Mochi Latent Video or Mochi VAE Encode")


@LATENT.row("Load AsymmVAE", "Empty Latent Image, VAE Decode", "an image is no video")
def decode_of_an_image_refused(g: Graph):
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    for kind, tiles in (
        ("VAEDecode", {}),
        ("VAEDecodeTiled", {"tile_size": 64, "overlap": 0, "temporal_size": 64, "temporal_overlap": 8}),
    ):
        decoded = Output("PreviewImage", {"images": g(kind, vae=g.vae, samples=empty, **tiles)})
        yield refused(decoded, kind, "Use Empty Mochi Latent Video or Mochi VAE Encode")


@LATENT.row("Mochi Sampler", "LatentCut along x, to an odd number", "sides are multiples of 16")
def odd_cut_refused(g: Graph):
    cut = g("LatentCut", samples=g.ours(), dim="x", index=0, amount=5)
    yield refused(g.mochi(latent=cut), "MochiSampler", "width and height must be multiples of 16")
