"""What the drawn clips promise: the object is whole, has its colour, and moves as its scene says."""

import numpy as np
import pytest

from tiny.clips import BACKGROUNDS, COLOURS, DIRECTIONS, FRAMES, SHAPES, SIZE, Scene, draw, draw_with_mask, random_scene


def test_colours_are_far_apart():
    palette = np.array([*COLOURS.values(), *BACKGROUNDS.values()])
    distances = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
    assert distances[~np.eye(len(palette), dtype=bool)].min() > 0.4


@pytest.mark.parametrize("shape", SHAPES)
def test_object_stays_inside_and_keeps_its_size(shape: str):
    rng = np.random.default_rng(1)
    for _ in range(40):
        clip, mask = draw_with_mask(random_scene(rng, shape=shape))
        assert clip.shape == (FRAMES, SIZE, SIZE, 3) and mask.shape == clip.shape[:3]
        assert clip.dtype == mask.dtype == np.float32
        assert clip.min() >= 0 and clip.max() <= 1
        border = (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
        assert max(side.max() for side in border) == 0
        areas = mask.sum((1, 2))
        assert areas.min() > 100 and np.ptp(areas) < 0.05 * areas.mean()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_object_moves_evenly_in_its_direction(direction: str):
    rng = np.random.default_rng(2)
    pixels = np.arange(SIZE)
    for shape in SHAPES:
        _, mask = draw_with_mask(random_scene(rng, shape=shape, direction=direction))
        area = mask.sum((1, 2))
        centres = np.stack([(mask.sum(1) @ pixels) / area, (mask.sum(2) @ pixels) / area], axis=1)
        along = centres @ np.array(DIRECTIONS[direction])
        assert along[-1] - along[0] >= 14
        steps = np.diff(along)
        assert np.abs(steps - steps.mean()).max() < 0.1
        assert np.ptp(centres @ np.array(DIRECTIONS[direction])[::-1]) < 0.1


def test_pixels_have_the_named_colours():
    rng = np.random.default_rng(3)
    for colour in COLOURS:
        for background in BACKGROUNDS:
            clip, mask = draw_with_mask(random_scene(rng, colour=colour, background=background))
            np.testing.assert_allclose(clip[mask == 1][0], COLOURS[colour], atol=1e-6)
            np.testing.assert_allclose(clip[mask == 0][0], BACKGROUNDS[background], atol=1e-6)


def test_the_same_seed_draws_the_same_scene():
    first, again = (random_scene(np.random.default_rng(4)) for _ in range(2))
    assert first == again
    assert np.array_equal(draw(first), draw(again))


def test_a_later_start_is_a_piece_of_the_whole_clip():
    scene = random_scene(np.random.default_rng(5))
    np.testing.assert_array_equal(draw(scene, frames=7, first=9), draw(scene)[9:16])


def test_larger_frames_show_the_same_scene():
    scene = random_scene(np.random.default_rng(6), shape="star")
    small, large = draw(scene, frames=1), draw(scene, frames=1, size=2 * SIZE)
    halved = large.reshape(1, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    assert np.abs(halved - small).mean() < 0.01


def test_an_object_may_leave_the_frame():
    gone = Scene("circle", "red", "left", "black", start=(-40.0, 10.0))
    assert draw(gone).max() == 0


def test_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"hexagon.*circle"):
        draw(Scene("hexagon", "red", "left", "black"))
