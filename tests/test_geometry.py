"""Sizes that a video can have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.geometry import check_frames, check_size, latent_shape, nearest_frames, nearest_length


def test_default_size():
    assert latent_shape(848, 480, 163) == (1, 12, 28, 60, 106)


@given(st.integers(-50, 5000))
def test_the_nearest_is_valid(value):
    check_frames(nearest_frames(value))
    check_size(nearest_length(value), nearest_length(value))
    if value > 8:
        assert abs(nearest_frames(value) - value) <= 3
        assert abs(nearest_length(value) - value) <= 8


@pytest.mark.parametrize(("frames", "nearest"), [(0, 1), (24, 25), (30, 31), (160, 163), (-3, 1)])
def test_wrong_frames_name_the_nearest(frames, nearest):
    with pytest.raises(MochiError, match=f"frames is {frames}.*nearest is {nearest}$"):
        check_frames(frames)


@pytest.mark.parametrize(("pixels", "nearest"), [(850, 848), (0, 16), (7, 16), (479, 480)])
def test_wrong_lengths_name_the_nearest(pixels, nearest):
    with pytest.raises(MochiError, match=f"width is {pixels}.*nearest is {nearest}$"):
        check_size(pixels, 480)
    with pytest.raises(MochiError, match=f"height is {pixels}.*nearest is {nearest}$"):
        check_size(848, pixels)
