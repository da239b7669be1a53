"""Mochi Extend and Mochi Noise Mask: what samplers keep, and what they make."""

import pytest
import torch
from exact import relative_error

SIZES = {"width": 64, "height": 64, "frames": 25, "steps": 3, "cfg": 4.0}


@pytest.fixture
def prompts(encode):
    return [encode(text) for text in ("a red circle moves left", "")]


@pytest.fixture
def clip():
    return {"samples": torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def made(call, model, prompts):
    def run(latent):
        links = {"model": model, "positive": prompts[0], "negative": prompts[1]}
        return call("MochiParallelSampler", **links, **SIZES, seed=1, latent=latent)[0]["samples"]

    return run


def test_a_clip_goes_on(call, made, clip):
    (longer,) = call("MochiParallelExtend", samples=clip, frames=19)
    video = made(longer)
    assert video.shape == (1, 12, 4, 4, 6)
    assert relative_error(video[:, :, :2], clip["samples"]) <= 1e-5
    assert video[:, :, 2:].std() > 0.1


def test_what_goes_on_fits_what_is_there(call, made, clip):
    """The model sees the clip while it makes the rest."""
    other = {"samples": clip["samples"].flip(2)}
    one, two = (made(call("MochiParallelExtend", samples=start, frames=19)[0])[:, :, 2:] for start in (clip, other))
    assert relative_error(one, two) > 1e-3


def test_an_area_that_moves(call, made, clip):
    mask = torch.zeros(7, 32, 48)
    mask[0, :, 40:] = 1  # the last column in the first frame,
    mask[3, :, :8] = 1  # the first one behind it
    (masked,) = call("MochiParallelNoiseMask", samples=clip, mask=mask)
    video, start = made(masked), clip["samples"]
    for frame, column in ((0, 5), (1, 0)):
        kept = [i for i in range(6) if i != column]
        assert relative_error(video[:, :, frame, :, kept], start[:, :, frame, :, kept]) <= 1e-5
        assert relative_error(video[:, :, frame, :, column], start[:, :, frame, :, column]) > 0.1


def test_room_behind_a_clip_with_an_area(call, made, clip):
    """The host's own mask, a picture's, stays that of the clip."""
    half = torch.zeros(1, 32, 48)
    half[..., 24:] = 1
    (masked,) = call("SetLatentNoiseMask", samples=clip, mask=half)
    (longer,) = call("MochiParallelExtend", samples=masked, frames=13)
    video, start = made(longer), clip["samples"]
    assert video.shape[2] == 3
    assert relative_error(video[:, :, :2, :, :2], start[..., :2]) <= 1e-5
    assert relative_error(video[:, :, :2, :, 4:], start[..., 4:]) > 0.1


def test_ksampler_keeps_the_same(call, model, prompts, made, clip):
    (longer,) = call("MochiParallelExtend", samples=clip, frames=19)
    euler = {"sampler_name": "euler", "scheduler": "linear_quadratic", "denoise": 1.0}
    links = {"model": model, "positive": prompts[0], "negative": prompts[1], "latent_image": longer}
    (theirs,) = call("KSampler", **links, **euler, seed=1, steps=3, cfg=4.0)
    assert relative_error(made(longer), theirs["samples"]) <= 1e-5


@pytest.mark.parametrize(
    ("node", "values", "message"),
    [
        ("MochiParallelExtend", {"frames": 7}, "the clip has 7 already: choose more"),
        (
            "MochiParallelNoiseMask",
            {"mask": torch.zeros(5, 32, 48)},
            "The mask has 5 pictures, but must have 1, or as many",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, clip, node, values, message):
    with pytest.raises(ValueError, match=message):
        call(node, samples=clip, **values)
    with pytest.raises(ValueError, match="comes from another model"):
        call(node, samples={"samples": torch.zeros(1, 4, 8, 8)}, **values)


def test_a_length_that_cannot_be_is_refused_when_it_is_queued(pack):
    check = pack.nodes["MochiParallelExtend"].validate_inputs
    assert check(frames=25) is True
    assert "nearest is 25" in check(frames=24)
    assert "at most" in check(frames=6 * 3000 + 1)
