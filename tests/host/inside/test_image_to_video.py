"""Mochi Image to Video and Mochi Transition: what they give to which frames, what they show, and what they refuse."""

import re

import nodes
import numpy as np
import pytest
import torch
from exact import assert_close, relative_error
from executor import prepared
from PIL import Image

SIZE = {"width": 64, "height": 48, "frames": 25}
IN_FILE = "in the file itself"


def pictures(count=1, height=48, width=64, channels=3, seed=0):
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vae(call, small):
    return call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")[0]


@pytest.fixture(scope="module")
def give(call, vae):
    def run(image=None, **values):
        image = pictures() if image is None else image
        values = {"vae": vae, "frame": 0, "strength": 1.0, **SIZE, **values}
        return call("MochiParallelImageToVideo", image=image, **values)[0]

    return run


@pytest.fixture(scope="module")
def join(call, vae):
    def run(first, second, **values):
        strengths = {"first_strength": 0.9, "second_strength": 0.7}
        values = {"vae": vae, "overlap": 7, **SIZE, **strengths, **values}
        return call("MochiParallelTransition", first=first, second=second, **values)[0]

    return run


def levels(latent):
    """The noise multiplier of each latent frame."""
    mask = latent["noise_mask"]
    assert mask.shape[2:] == latent["samples"].shape[2:]
    assert torch.equal(mask.amax((-2, -1)), mask.amin((-2, -1)))
    return [round(x, 3) for x in mask[0, 0, :, 0, 0].tolist()]


@pytest.mark.parametrize(
    ("frame", "count", "places"),
    [
        (0, 1, [0]),
        (-1, 1, [4]),
        (24, 1, [4]),
        (5, 1, [1]),
        (13, 1, [3]),
        (0, 7, [0, 1]),
        (-1, 13, [2, 3, 4]),
        (7, 7, [2, 3]),
    ],
)
def test_where_a_picture_or_a_clip_stands(vae, give, frame, count, places):
    image = pictures(count)
    latent = give(image, frame=frame, strength=0.75)
    assert levels(latent) == [0.25 if place in places else 1.0 for place in range(5)]
    assert_close(latent["samples"][:, :, places], vae.encode(image), 1e-6)
    assert not latent["samples"][:, :, [place for place in range(5) if place not in places]].any()


def test_one_after_the_other(give):
    latent = give(
        latent=give(latent=give(), frame=-1, strength=0.3), frame=10, strength=0.6, width=1, height=1, frames=1
    )
    assert levels(latent) == [0.0, 1.0, 0.4, 1.0, 0.7]


def test_in_a_clip_and_a_batch(give):
    clip = torch.randn(2, 12, 5, 6, 8)
    latent = give(latent={"samples": clip})
    assert levels(latent) == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert torch.equal(latent["samples"][:, :, 1:], clip[:, :, 1:]) and latent["samples"].shape == clip.shape
    assert torch.equal(latent["samples"][0, :, 0], latent["samples"][1, :, 0])


@pytest.mark.parametrize(("height", "width"), [(48, 64), (97, 131), (300, 17), (16, 16), (17, 500), (480, 848)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_size(give, height, width, channels):
    image = pictures(1, height, width, channels)
    image[..., 3:] = 1  # an alpha channel that hides nothing
    latent = give(image)
    assert latent["samples"].shape == (1, 12, 5, 6, 8) and latent["samples"].isfinite().all()


@pytest.mark.parametrize(("rows", "columns"), [(0, 180), (260, 0), (1, 0)])
def test_the_middle_is_what_is_used(give, rows, columns):
    """What lies beside it makes no difference."""
    middle = pictures(1, 480, 640)
    larger = torch.nn.functional.pad(middle, (0, 0, columns, columns, rows, rows))
    assert torch.equal(give(larger)["samples"], give(middle)["samples"])


def test_the_node_shows_what_is_used(pack, vae):
    def shown(node, **inputs):
        output = prepared(nodes.NODE_CLASS_MAPPINGS[node]).execute(vae=vae, **SIZE, **inputs)
        images = output.ui.as_dict()["images"] if hasattr(output.ui, "as_dict") else output.ui["images"]
        return [np.asarray(Image.open(pack.base / i["type"] / i["subfolder"] / i["filename"])) for i in images]

    image = torch.zeros(1, 96, 200, 3)
    image[:, :, 36:-36] = torch.tensor([1.0, 0.5, 0.0])
    (picture,) = shown("MochiParallelImageToVideo", image=image, frame=0, strength=1.0)
    assert picture.shape == (48, 64, 3) and (np.abs(picture.astype(int) - [255, 127, 0]) <= 1).all()
    strengths = {"first_strength": 0.9, "second_strength": 0.7}
    first, second = torch.zeros(7, 48, 64, 3), torch.ones(7, 48, 64, 3)
    first[-1], second[0] = 0.2, 0.6
    seen = shown("MochiParallelTransition", first=first, second=second, overlap=7, **strengths)
    assert [round(p.mean() / 255, 2) for p in seen] == [0.2, 0.6]


@pytest.mark.parametrize(
    ("image", "values", "message"),
    [
        (pictures(2), {}, r"image has 2 frames.*6k \+ 1.*nearest is 1"),
        (pictures(0), {}, "image has 0 frames.*nearest is 1"),
        (pictures(24), {}, "image has 24 frames.*nearest is 25"),
        (pictures(31), {}, "image has 31 frames, but the video only 25: take 25"),
        (pictures(7), {"frame": 20}, "frame is 20, but a clip of 7 frames does not fit.*25: the nearest is 18"),
        (pictures(7), {"frame": -20}, "frame is -20, but a clip of 7 frames.*the nearest is -19"),
        (pictures(), {"frame": 25}, "frame is 25, but the video has 25 frames, 0 to 24.*the nearest is 24"),
        (pictures(), {"frame": -26}, "frame is -26.*the nearest is -25"),
        (pictures(), {"strength": 1.2}, "strength is 1.2, but must be between 0 and 1: the nearest is 1"),
        (pictures(), {"strength": -0.1}, "strength is -0.1.*the nearest is 0"),
        (pictures(1, 1, 1), {}, "image has 1 x 1 pixels, but must have 16 x 16 at least"),
        (pictures(1, 15, 900), {}, "image has 900 x 15 pixels"),
        (pictures(channels=4), {}, "image is transparent in places.*background"),
        (pictures(channels=2), {}, "image has 2 channels, but must have 3"),
        (pictures() * float("nan"), {}, "image has values that are no numbers"),
        (pictures(), {"latent": {"samples": torch.zeros(1, 16, 3, 6, 8)}}, "16 channels.*another model"),
        (pictures(), {"latent": {"samples": torch.zeros(1, 4, 6, 8)}}, "another model"),
        (pictures(), {"latent": {"samples": torch.zeros(1, 12, 3, 5, 8)}}, "64 x 40 pixels.*multiples of 16"),
        (pictures(), {"latent": {"samples": torch.zeros(1, 12, 2, 6, 8)}, "frame": 7}, "has 7 frames.*nearest is 6"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_encoded(vae, give, monkeypatch, image, values, message):
    monkeypatch.setattr(vae, "encode", lambda _: pytest.fail("something was encoded"))
    with pytest.raises(ValueError, match=message):
        give(image, **values)


@pytest.mark.parametrize(
    ("first", "second", "free"),
    [((0, 1), (0, 1), 1), ((7, 1), (11, 1), 13), ((0, 13), (12, 1), 13), ((-1, 1), (19, 1), 18)],
)
def test_two_pictures_for_one_latent_frame(give, first, second, free):
    latent = give(pictures(first[1]), frame=first[0])
    message = (
        rf"frame is {second[0]}, but frames? .* given already \(frame {first[0]}\).*nearest that is free is {free}$"
    )
    with pytest.raises(ValueError, match=message):
        give(pictures(second[1]), frame=second[0], latent=latent)


def test_vaes_that_cannot_encode_mochi(call, small, give):
    (decoder,) = call("MochiParallelLoadVAE", file=small.decoder, encoder_file=IN_FILE, dtype="auto")
    with pytest.raises(ValueError, match=r"can only decode.*encoder.safetensors"):
        give(vae=decoder)
    (pixels,) = call("VAELoader", vae_name="pixel_space")
    with pytest.raises(ValueError, match=r"vae is that of another model.*Load AsymmVAE"):
        give(vae=pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 24}, "frames is 24.*nearest is 25"),
        ({"frames": 6 * 3000 + 1}, "at most"),
        ({"width": 100}, "width is 100.*nearest is 96"),
        ({"height": 16 * 10**6}, "height is 16000000, but can be"),
        ({"frame": 25}, "frame is 25.*nearest is 24"),
        ({"frame": -26}, "frame is -26.*nearest is -25"),
        ({"strength": 1.01}, "strength is 1.01.*nearest is 1"),
        ({"strength": float("nan")}, "strength is nan"),
    ],
)
def test_widgets_are_checked_when_queued(pack, change, message):
    check = pack.nodes["MochiParallelImageToVideo"].validate_inputs
    values = {**SIZE, "frame": 0, "strength": 1.0}
    assert check(**values) is True
    assert re.search(message, check(**(values | change)))
    assert check(**(values | {"frame": None, "frames": None})) is True
    assert check(**(values | {"frames": 24, "width": 1, "frame": 900}), latent=None) is True


def test_a_transition(vae, join):
    first, second = pictures(13, seed=1), pictures(9, seed=2)
    latent = join(first, second)
    assert levels(latent) == [0.1, 0.1, 1.0, 0.3, 0.3]
    assert_close(latent["samples"][:, :, :2], vae.encode(first[-7:]), 1e-6)
    assert_close(latent["samples"][:, :, 3:], vae.encode(second[:7]), 1e-6)


def test_a_loop_and_pictures(vae, join):
    clip = pictures(13, seed=1)
    latent = join(clip, clip, overlap=1)
    assert levels(latent) == [0.1, 1.0, 1.0, 1.0, 0.3]
    assert_close(latent["samples"][:, :, :1], vae.encode(clip[-1:]), 1e-6)
    assert_close(latent["samples"][:, :, 4:], vae.encode(clip[:1]), 1e-6)
    assert levels(join(pictures(), pictures(4), overlap=7)) == [0.1, 1.0, 1.0, 1.0, 0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": 8}, "overlap is 8, but must be 6k.*nearest is 7"),
        ({"overlap": 13}, "overlap is 13, but a video of 25 frames has room for 7 of each"),
        ({"overlap": 0}, "overlap is 0.*nearest is 1"),
        ({"frames": 1, "overlap": 1}, "frames is 1, but a transition.*nearest is 7"),
        ({"frames": 24}, "frames is 24.*nearest is 25"),
        ({"width": 100}, "width is 100.*nearest is 96"),
        ({"height": 16 * 10**6}, "height is 16000000, but can be"),
        ({"first_strength": 2.0}, "first_strength is 2.*nearest is 1"),
        ({"second_strength": -1.0}, "second_strength is -1.*nearest is 0"),
    ],
)
def test_a_transition_that_cannot_be(pack, join, change, message):
    check = pack.nodes["MochiParallelTransition"].validate_inputs
    values = {**SIZE, "overlap": 7, "first_strength": 0.9, "second_strength": 0.7}
    assert check(**values) is True and check(**(values | {"overlap": None})) is True
    assert re.search(message, check(**(values | change)))


def test_clips_that_cannot_be_joined(vae, join, monkeypatch):
    monkeypatch.setattr(vae, "encode", lambda _: pytest.fail("something was encoded"))
    for first, second, message in (
        (pictures(1, 4, 4), pictures(), "first has 4 x 4 pixels"),
        (pictures(), pictures(channels=4), "second is transparent"),
        (pictures(), pictures(1, 1, 1), "second has 1 x 1 pixels"),
        (pictures(0), pictures(), "first has 0 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            join(first, second)


def test_frames_that_leave_nothing_to_make(frames_model, model, mochi_sampler, give, join):
    latent = join(pictures(7), pictures(7), frames=19, first_strength=1.0, second_strength=1.0)
    with pytest.raises(ValueError, match=r"nothing is left to make.*or choose a strength below 1"):
        mochi_sampler(frames_model, latent=latent)
    soft = join(pictures(7), pictures(7), frames=19)
    mochi_sampler(frames_model, latent=soft)
    with pytest.raises(ValueError, match=r"nothing is left to make. Give fewer of them\."):
        mochi_sampler(model, latent=soft)


def test_a_video_that_was_made_is_a_clip(call, frames_model, prompts, give):
    """It goes on as it is, and an area may be of its given frames too."""
    latent = give(pictures())
    mask = torch.ones(1, 48, 64)
    (room,) = call("MochiParallelExtend", samples=latent, frames=37)
    assert levels(room) == [0.0] + [1.0] * 6
    (area,) = call("MochiParallelNoiseMask", samples=room, mask=mask)
    assert levels(area) == [0.0] + [1.0] * 6
    values = {"model": frames_model, "positive": prompts[0], "negative": prompts[1], "seed": 3, "steps": 2, "cfg": 3.0}
    euler = {"sampler_name": "euler", "scheduler": "linear_quadratic", "denoise": 1.0, "latent_image": latent}
    for video in (
        call("MochiParallelSampler", **values, **SIZE, batch_size=1, latent=latent)[0],
        call("KSampler", **values, **euler)[0],
    ):
        (longer,) = call("MochiParallelExtend", samples=video, frames=37)
        assert levels(longer) == [0.0] * 5 + [1.0] * 2
        assert levels(give(pictures(), frame=-1, latent=longer)) == [0.0] * 5 + [1.0, 0.0]
        (area,) = call("MochiParallelNoiseMask", samples=video, mask=mask)
        assert levels(area) == [1.0] * 5


def test_a_video_goes_with_its_first_frame(frames_model, mochi_sampler, give):
    """Another picture makes another video."""
    one, two = (give(pictures(seed=seed)) for seed in (1, 2))
    made = [mochi_sampler(frames_model, latent=latent) for latent in (one, two)]
    assert_close(made[0][:, :, 0], one["samples"][:, :, 0], 1e-6)
    assert relative_error(made[0][:, :, 1:], made[1][:, :, 1:]) > 1e-3
