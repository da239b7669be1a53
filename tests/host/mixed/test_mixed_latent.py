"""LATENT between our nodes and built-in ones."""

import shutil

import pytest

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import HEIGHT, SIZE, WIDTH, Link, Output, difference, latent_file

SECTION = "LATENT"


@pytest.mark.mixed("Mochi Sampler", "LatentBatch, SamplerCustom", "each of the two by itself")
def test_latent_batch(g: CheckedGraph) -> None:
    first, second = g.ours(seed=1), g.ours(seed=2)
    both = g("LatentBatch", samples1=first, samples2=second)
    part = {"sigmas": g.split(g.sigmas(), 2)[1]}
    made = g.custom(latent_image=both, **part)
    for i, one in enumerate((first, second)):
        g.assert_equal(g("LatentFromBatch", samples=made, batch_index=i, length=1), g.ours(latent=one, **part))


@pytest.mark.mixed("Mochi Sampler", "RepeatLatentBatch, LatentFromBatch, KSampler", "each seed of the batch by itself")
def test_repeat_latent_batch(g: CheckedGraph) -> None:
    many = g("RepeatLatentBatch", samples=g.empty(), amount=3)
    made = g.mochi(latent=many)
    g.assert_equal(made, g.ours(batch_size=3))
    for i in range(3):
        alone = g("LatentFromBatch", samples=many, batch_index=i, length=1)
        g.assert_equal(g.ksampler(latent_image=alone), g("LatentFromBatch", samples=made, batch_index=i, length=1))


@pytest.mark.mixed("Mochi Sampler", "EmptyMochiLatentVideo, Rebatch Latents", "the same batch, made at once")
def test_rebatch(g: CheckedGraph) -> None:
    parts = g("RebatchLatents", latents=g.empty(batch=2), batch_size=1)
    joined = g("RebatchLatents", latents=g.mochi(latent=parts), batch_size=2)
    g.assert_equal(joined, g.ours(batch_size=2))


@pytest.mark.mixed("Mochi Sampler, Mochi VAE Decode", "LatentCut, LatentConcat along time", "the latents as they were")
def test_cut_and_concat(g: CheckedGraph) -> None:
    made = g.mochi()
    parts = [g("LatentCut", samples=made, dim="t", index=i, amount=n) for i, n in ((0, 1), (1, 2))]
    joined = g("LatentConcat", samples1=parts[0], samples2=parts[1], dim="t")
    g.assert_equal(joined, made, within=0)
    g.assert_same_frames(g("VAEDecode", vae=g.vae, samples=joined), g.decoded(g.ours()))


@pytest.mark.mixed(
    "Mochi Sampler, Load AsymmVAE",
    "LatentCut along time, VAE Decode, ImageFromBatch",
    "the first frames of the whole video",
)
def test_cut_is_the_beginning(g: CheckedGraph) -> None:
    start = g("LatentCut", samples=g.mochi(), dim="t", index=0, amount=2)
    g.assert_same_frames(g("VAEDecode", vae=g.vae, samples=start), g.frames(g.ours(), 0, 7))


@pytest.mark.mixed("Mochi Sampler", "LatentAdd, LatentSubtract, LatentMultiply", "the latents as they were")
def test_arithmetic(g: CheckedGraph) -> None:
    first, second = g.mochi(seed=1), g.mochi(seed=2)
    both = g("LatentAdd", samples1=first, samples2=second)
    g.assert_equal(g("LatentSubtract", samples1=both, samples2=second), g.ours(seed=1))
    twice = g("LatentAdd", samples1=first, samples2=first)
    g.assert_equal(g("LatentMultiply", samples=twice, multiplier=0.5), g.ours(seed=1))


@pytest.mark.mixed(
    "Mochi Sampler", "SaveLatent, LoadLatent, SamplerCustom", "Mochi Sampler twice, without a file between"
)
def test_save_and_load(g: CheckedGraph) -> None:
    made, part = g.mochi(seed=1), {"sigmas": g.split(g.sigmas(), 2)[1]}
    name = f"mixed{g.ranks}.latent"
    ((saved,),) = g.run(latent_file(made))
    shutil.copy(saved, g.comfy.base / "input" / name)
    loaded = g("LoadLatent", latent=name)
    g.assert_equal(loaded, made, within=0)
    g.assert_equal(g.custom(latent_image=loaded, **part), g.ours(latent=g.ours(seed=1), **part))


def left_half(g: CheckedGraph) -> Link:
    """A mask of the left half of the picture: 1 where there is to be noise."""
    none, half = (g("SolidMask", value=value, width=w, height=HEIGHT) for value, w in ((0.0, WIDTH), (1.0, WIDTH // 3)))
    return g("MaskComposite", destination=none, source=half, x=0, y=0, operation="add")


@pytest.mark.mixed(
    "Mochi Sampler", "SetLatentNoiseMask, MaskComposite, KSampler", "Mochi Sampler with the mask; what is masked stays"
)
def test_noise_mask(g: CheckedGraph) -> None:
    start = g.ours(seed=1)
    masked = g("SetLatentNoiseMask", samples=start, mask=left_half(g))

    g.assert_equal(g.ksampler(latent_image=masked), g.ours(latent=masked))
    *both, before = g.run(g.ksampler(latent_image=masked), g.mochi(latent=masked), start)
    for made in both:  # the mask is scaled to the latents with soft borders, of a column
        assert difference(made[..., 3:], before[..., 3:]) < 1e-5
        assert difference(made[..., :1], before[..., :1]) > 0.1
    g.note("the rest is kept")


@pytest.mark.mixed(
    "Mochi Sampler", "SetLatentNoiseMask, SolidMask", "no mask, where it is 1 all over; nothing changes where it is 0"
)
def test_solid_mask(g: CheckedGraph) -> None:
    start = g.ours(seed=1)
    whole, none = (g("SolidMask", value=value, width=WIDTH, height=HEIGHT) for value in (1.0, 0.0))
    g.assert_equal(g.mochi(latent=g("SetLatentNoiseMask", samples=start, mask=whole)), g.ours(latent=start))
    g.assert_equal(g.mochi(latent=g("SetLatentNoiseMask", samples=start, mask=none)), start)


@pytest.mark.mixed("Mochi Extend", "KSampler, SamplerCustom", "Mochi Sampler with the same; the clip stays")
def test_extend(g: CheckedGraph) -> None:
    clip = g("LatentCut", samples=g.ours(seed=1), dim="t", index=0, amount=1)
    longer = g("MochiParallelExtend", samples=clip, frames=SIZE["frames"])
    g.assert_equal(g.ksampler(latent_image=longer), g.ours(latent=longer))
    g.assert_equal(g.custom(latent_image=longer), g.ours(latent=longer))
    made, start = g.run(g.ours(latent=longer), clip)
    assert difference(made[:, :, :1], start) < 1e-5
    g.note("the clip stays")


@pytest.mark.mixed("Mochi Noise Mask", "MaskComposite, KSampler", "Mochi Sampler with the same")
def test_own_mask(g: CheckedGraph) -> None:
    masked = g("MochiParallelNoiseMask", samples=g.ours(seed=1), mask=left_half(g))
    g.assert_equal(g.ksampler(latent_image=masked), g.ours(latent=masked))


@pytest.mark.mixed("Mochi Sampler", "LatentUpscaleBy, SamplerCustom", "Mochi Sampler with the same, at the larger size")
def test_latent_upscale(g: CheckedGraph) -> None:
    larger = g("LatentUpscaleBy", samples=g.ours(), upscale_method="bilinear", scale_by=2.0)
    part = {"sigmas": g.split(g.sigmas(), 2)[1]}
    g.assert_equal(g.custom(latent_image=larger, **part), g.ours(latent=larger, **part))
    (made,) = g.run(g.mochi(latent=larger, **part))
    assert made.shape == (1, 12, 3, HEIGHT // 4, WIDTH // 4)


@pytest.mark.mixed("Load AsymmDiT", "Empty Latent Image, KSampler", "Mochi Sampler of one frame")
def test_empty_image(g: CheckedGraph) -> None:
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    g.assert_equal(g.ksampler(latent_image=empty), g.ours(**{**SIZE, "frames": 1}))


@pytest.mark.mixed("Mochi Sampler, Mochi VAE Decode", "Empty Latent Image", "an image is no video")
def test_empty_image_refused(g: CheckedGraph) -> None:
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    g.assert_refused(g.mochi(latent=empty), "MochiParallelSampler", "Use Empty Mochi Latent Video or Mochi VAE Encode")
    decoded = Output("PreviewImage", {"images": g("MochiParallelVAEDecode", vae=g.vae, samples=empty)})
    g.assert_refused(decoded, "MochiParallelVAEDecode", "Use Empty Mochi Latent Video or Mochi VAE Encode")


@pytest.mark.mixed("Load AsymmVAE", "Empty Latent Image, VAE Decode", "an image is no video")
def test_decode_of_an_image_refused(g: CheckedGraph) -> None:
    empty = g("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    for kind, tiles in (
        ("VAEDecode", {}),
        ("VAEDecodeTiled", {"tile_size": 64, "overlap": 0, "temporal_size": 64, "temporal_overlap": 8}),
    ):
        decoded = Output("PreviewImage", {"images": g(kind, vae=g.vae, samples=empty, **tiles)})
        g.assert_refused(decoded, kind, "Use Empty Mochi Latent Video or Mochi VAE Encode")


@pytest.mark.mixed("Mochi Sampler", "LatentCut along x, to an odd number", "sides are multiples of 16")
def test_odd_cut_refused(g: CheckedGraph) -> None:
    cut = g("LatentCut", samples=g.ours(), dim="x", index=0, amount=5)
    g.assert_refused(g.mochi(latent=cut), "MochiParallelSampler", "width and height must be multiples of 16")


def given(g: CheckedGraph, vae: Link, frame: int, strength: float, **latent: Link) -> Link:
    """A picture, which a built-in node makes, for a frame of the video."""
    image = g("EmptyImage", width=100, height=60, batch_size=1, color=0xFF8000)
    return g("MochiParallelImageToVideo", vae=vae, image=image, frame=frame, strength=strength, **SIZE, **latent)


@pytest.mark.mixed(
    "Mochi Image to Video, Load AsymmDiT",
    "EmptyImage, KSampler, SamplerCustom",
    "Mochi Sampler with the same; no given frame differs",
)
def test_given_frames(g: CheckedGraph) -> None:
    model, single = g.load(variant="frames"), g.load(ranks=1, variant="frames")
    latent = given(g, g.vae, -1, 0.6, latent=given(g, g.vae, 0, 1.0))
    right = g.ours(model=single, latent=given(g, g.single_vae, -1, 0.6, latent=given(g, g.single_vae, 0, 1.0)))
    g.assert_equal(g.mochi(model=model, latent=latent), right)
    g.assert_equal(g.ksampler(model=model, latent_image=latent), right)
    g.assert_equal(g.custom(model=model, latent_image=latent), right)
    g.assert_differ(right, g.ours())
    noisy = g.custom("euler_ancestral", model=model, latent_image=latent)
    g.assert_refused(noisy, "SamplerCustom", "euler_ancestral, which adds noise at each step")


@pytest.mark.mixed("Mochi Transition, Load AsymmDiT", "EmptyImage, KSampler", "Mochi Sampler with the same")
def test_transition(g: CheckedGraph) -> None:
    first, second = (g("EmptyImage", width=64, height=48, batch_size=7, color=color) for color in (0xFF0000, 0x0000FF))

    def joined(vae: Link) -> Link:
        widgets = {"overlap": 1, "first_strength": 0.9, "second_strength": 0.7}
        return g("MochiParallelTransition", vae=vae, first=first, second=second, **widgets, **SIZE)

    right = g.ours(model=g.load(ranks=1, variant="frames"), latent=joined(g.single_vae))
    g.assert_equal(g.ksampler(model=g.load(variant="frames"), latent_image=joined(g.vae)), right)
