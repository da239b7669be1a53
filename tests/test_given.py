"""Where given pictures and clips stand among latent frames, and how pictures are made to fit."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.geometry import frame_count
from mochi.given import crop_of, fitted, frame_number, frames_of_latent, latent_places, noise_multiplier

lengths = st.integers(0, 40).map(lambda n: 6 * n + 1)
sides = st.integers(16, 90)
video_sides = st.integers(1, 6).map(lambda n: 16 * n)


def frames_in(place: int) -> list[int]:
    """The frames that a latent stands for, as they are told."""
    first, *last = map(int, re.findall(r"\d+", frames_of_latent(place)))
    return list(range(first, (last[0] if last else first) + 1))


@given(frames=lengths, data=st.data())
def test_frames_are_counted_from_either_end(frames, data):
    number = data.draw(st.integers(0, frames - 1))
    assert frame_number(number, frames) == frame_number(number - frames, frames) == number


@given(frames=lengths, beyond=st.integers(0, 300), before=st.booleans())
def test_a_frame_beyond_the_video_is_told_the_nearest(frames, beyond, before):
    wrong = -frames - 1 - beyond if before else frames + beyond
    with pytest.raises(MochiError, match=rf"--image is {wrong}, but the video has {frames} frames") as error:
        frame_number(wrong, frames, "--image")
    nearest = int(str(error.value).rpartition(" ")[2])
    assert nearest == (-frames if before else frames - 1)
    frame_number(nearest, frames)


@given(latents=st.integers(1, 40), data=st.data())
def test_a_picture_stands_in_the_latent_of_its_frame(latents, data):
    frames = frame_count(latents)
    frame = data.draw(st.integers(-frames, frames - 1))
    (place,) = latent_places(frame, 1, frames)
    assert frame % frames in frames_in(place) and 0 <= place < latents


def test_every_frame_has_one_latent():
    assert [frame for place in range(5) for frame in frames_in(place)] == list(range(frame_count(5)))


@given(latents=st.integers(1, 20), data=st.data())
def test_a_clip_stands_where_its_end_is_named(latents, data):
    frames, inside = frame_count(latents), data.draw(st.integers(1, latents))
    clip = frame_count(inside)
    frame = data.draw(st.integers(-frames, frames - 1))
    first = frame if frame >= 0 else frames + frame - clip + 1
    if not 0 <= first <= frames - clip:
        with pytest.raises(MochiError, match=rf"frame is {frame}, but a clip of {clip} frames does not fit") as error:
            latent_places(frame, clip, frames)
        nearest = int(str(error.value).rpartition(" ")[2])
        assert (nearest < 0) == (frame < 0)
        assert len(latent_places(nearest, clip, frames)) == inside
        return
    places = latent_places(frame, clip, frames)
    assert len(places) == inside and places[0] >= 0 and places[-1] < latents
    assert first in frames_in(places[0])


def test_the_ends_of_a_video():
    assert latent_places(0, 13, 37) == range(3)
    assert latent_places(-1, 13, 37) == range(4, 7)
    assert latent_places(-1, 37, 37) == latent_places(0, 37, 37) == range(7)
    with pytest.raises(MochiError, match="has 43 frames, but the video only 37"):
        latent_places(0, 43, 37)
    with pytest.raises(MochiError, match=r"6k \+ 1"):
        latent_places(0, 12, 37)


def test_strength_is_how_much_stays():
    assert [noise_multiplier(strength) for strength in (0, 0.75, 1)] == [1, 0.25, 0]
    for wrong, nearest in ((-0.1, 0), (1.01, 1), (math.inf, 1), (math.nan, 0)):
        with pytest.raises(MochiError, match=rf"must be between 0 and 1: the nearest is {nearest}$"):
            noise_multiplier(wrong)


@given(rows=st.integers(1, 3000), columns=st.integers(1, 3000), width=video_sides, height=video_sides)
def test_the_crop_is_the_largest_of_its_ratio_in_the_middle(rows, columns, width, height):
    top, left, kept_rows, kept_columns = crop_of(rows, columns, width, height)
    assert (kept_rows == rows) or (kept_columns == columns)
    assert 1 <= kept_rows <= rows and 1 <= kept_columns <= columns
    for before, kept, whole in ((top, kept_rows, rows), (left, kept_columns, columns)):
        assert 0 <= (whole - kept - before) - before <= 1
    # Off the ratio by the rounding to whole pixels at most.
    assert abs(kept_columns - kept_rows * width / height) <= max(1, width / height)


@given(rows=sides, columns=sides, width=video_sides, height=video_sides, count=st.integers(1, 2))
def test_pictures_of_any_size_fit(rows, columns, width, height, count):
    pictures = torch.rand(count, rows, columns, 3, generator=torch.Generator().manual_seed(0))
    found = fitted(pictures, width, height)
    assert found.shape == (count, height, width, 3) and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found[:1], fitted(pictures[:1], width, height))
    plain = fitted(torch.full_like(pictures, 0.25), width, height)
    assert torch.allclose(plain, torch.tensor(0.25), atol=1e-5)


@given(rows=sides.map(lambda n: 2 * n), columns=sides.map(lambda n: 2 * n))
def test_a_mirrored_picture_is_mirrored(rows, columns):
    picture = torch.rand(1, rows, columns, 3, generator=torch.Generator().manual_seed(0))
    _, _, kept_rows, kept_columns = crop_of(rows, columns, 32, 32)
    if (rows - kept_rows) % 2 or (columns - kept_columns) % 2:
        return
    for axis in (1, 2):
        assert torch.allclose(fitted(picture.flip(axis), 32, 32), fitted(picture, 32, 32).flip(axis), atol=1e-5)


def test_a_picture_of_the_video_s_size_is_left_as_it_is():
    picture = torch.rand(1, 32, 48, 3)
    assert torch.equal(fitted(picture, 48, 32), picture)
    wider = torch.cat((torch.zeros(1, 32, 5, 3), picture, torch.ones(1, 32, 5, 3)), 2)
    assert torch.equal(fitted(wider, 48, 32), picture)


def test_what_is_no_picture_of_a_video():
    opaque = torch.cat((torch.rand(1, 32, 48, 3), torch.ones(1, 32, 48, 1)), -1)
    assert torch.equal(fitted(opaque, 48, 32), opaque[..., :3])
    see_through = opaque.clone()
    see_through[0, 3, 4, 3] = 0.5
    with pytest.raises(MochiError, match=r"start\.png is transparent in places"):
        fitted(see_through, 48, 32, "start.png")
    for rows, columns in ((1, 1), (15, 400), (400, 15)):
        with pytest.raises(MochiError, match=rf"image has {columns} x {rows} pixels, but must have 16 x 16 at least"):
            fitted(torch.rand(1, rows, columns, 3), 48, 32)
