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


def square(g: CheckedGraph, x: int) -> Link:
    """A picture of a red square, of another size than the video."""
    background, square = (
        g("EmptyImage", width=side, height=side, batch_size=1, color=colour)
        for side, colour in ((64, 0), (24, 0xFF0000))
    )
    place = {"x": x, "y": 20, "resize_source": False}
    return g("ImageCompositeMasked", destination=background, source=square, **place)


def image_to_video(g: CheckedGraph, x: int, frame: int, strength: float = 1.0, **latent: Link) -> Link:
    """A picture given to a frame."""
    where = {"frame": frame, "strength": strength}
    return g("MochiParallelImageToVideo", vae=g.vae, image=square(g, x), **SIZE, **where, **latent)


@pytest.mark.mixed(
    "Mochi Image to Video",
    "EmptyImage, ImageCompositeMasked, KSampler, SamplerCustom",
    "Mochi Sampler with the same; the frame stays",
)
def test_image_to_video(g: CheckedGraph) -> None:
    model, single = g.load(variant="frames"), g.load(ranks=1, variant="frames")
    given = image_to_video(g, 8, frame=0)
    ours = g.ours(model=single, latent=given)
    g.assert_equal(g.ksampler(model=model, latent_image=given), ours)
    g.assert_equal(g.custom(model=model, latent_image=given), ours)
    g.assert_equal(g.mochi(model=model, latent=given), ours)
    made, before = g.run(ours, given)
    assert difference(made[:, :, :1], before[:, :, :1]) < 1e-5
    assert difference(made[:, :, 1:], before[:, :, 1:]) > 0.1
    g.note("the frame stays")


@pytest.mark.mixed(
    "Mochi Image to Video, twice",
    "KSampler with heun and dpmpp_2m",
    "the same in one process; another strength differs",
)
def test_start_and_end(g: CheckedGraph) -> None:
    model, single = g.load(variant="frames"), g.load(ranks=1, variant="frames")
    start = image_to_video(g, 8, frame=0, strength=0.7)
    both, kept = (image_to_video(g, 32, frame=-1, strength=s, latent=start) for s in (0.3, 1.0))
    for name in ("heun", "dpmpp_2m"):
        made, right = (g.ksampler(model=m, latent_image=both, sampler_name=name) for m in (model, single))
        g.assert_equal(made, right)
    g.assert_differ(g.mochi(model=model, latent=both), g.mochi(model=model, latent=kept))


@pytest.mark.mixed("Mochi Image to Video", "KSampler with euler_ancestral", "it adds noise, of which frames have less")
def test_ancestral_refused(g: CheckedGraph) -> None:
    given = image_to_video(g, 8, frame=0, strength=0.6)
    made = g.ksampler(model=g.load(variant="frames"), latent_image=given, sampler_name="euler_ancestral")
    g.assert_refused(made, "KSampler", "sampler_name is euler_ancestral, which adds noise at each step")


@pytest.mark.mixed("Mochi Transition", "ImageFromBatch, KSampler", "Mochi Sampler with the same; both ends stay")
def test_transition(g: CheckedGraph) -> None:
    model, single = g.load(variant="frames"), g.load(ranks=1, variant="frames")
    clip, stays = g.ours(), {"overlap": 1, "first_strength": 1.0, "second_strength": 1.0}
    ends = {"first": g.frames(clip, 0, 7), "second": g.frames(clip, 7, 6)}
    joined = g("MochiParallelTransition", vae=g.vae, **ends, **SIZE, **stays)
    ours = g.ours(model=single, latent=joined)
    g.assert_equal(g.ksampler(model=model, latent_image=joined), ours)
    made, before = g.run(ours, joined)
    assert difference(made[:, :, ::2], before[:, :, ::2]) < 1e-5
    g.note("both ends stay")


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
