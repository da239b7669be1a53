"""The judge is right on drawn clips, sharp or soft, and says that it cannot tell where there is nothing to see."""

import dataclasses

import numpy as np
import pytest

from tiny.clips import BACKGROUNDS, draw, random_scene
from tiny.judge import judge


def soften(clip: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur in space."""
    taps = np.exp(-0.5 * (np.arange(-6, 7) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (1, 2):
        padding = [(0, 0)] * 4
        padding[axis] = (6, 6)
        padded = np.pad(clip, padding, mode="edge")
        size = clip.shape[axis]
        clip = sum(tap * padded.take(range(i, i + size), axis=axis) for i, tap in enumerate(taps))
    return clip


@pytest.mark.parametrize(("blur", "noise", "clips"), [(0.0, 0.0, 200), (1.0, 0.03, 100), (1.5, 0.06, 100)])
def test_right_on_drawn_clips(blur: float, noise: float, clips: int):
    rng = np.random.default_rng(1)
    right = []
    for _ in range(clips):
        scene = random_scene(rng)
        clip = draw(scene)
        if blur:
            clip = np.clip(soften(clip, blur) + rng.normal(0, noise, clip.shape), 0, 1)
        right.append(judge(clip).agrees(scene))
    assert np.mean(right, axis=0).min() >= 0.99


def test_blank_clip_has_only_a_background():
    for background, colour in BACKGROUNDS.items():
        verdict = judge(np.full((25, 64, 64, 3), colour, np.float32))
        assert (verdict.shape, verdict.colour, verdict.direction, verdict.background) == (None, None, None, background)


def test_noise_has_no_shape():
    verdict = judge(np.random.default_rng(2).random((25, 64, 64, 3), np.float32))
    assert verdict.shape is None and verdict.direction is None


def test_still_clip_has_no_direction():
    scene = dataclasses.replace(random_scene(np.random.default_rng(3)), speed=0.0)
    verdict = judge(draw(scene))
    assert verdict.direction is None
    assert verdict.shape == scene.shape and verdict.colour == scene.colour


def test_reversed_clip_moves_the_other_way():
    scene = random_scene(np.random.default_rng(4), direction="left")
    assert judge(draw(scene)[::-1]).direction == "right"


def test_object_that_vanishes_is_not_judged():
    clip = draw(random_scene(np.random.default_rng(5), background="gray"))
    clip[12:] = BACKGROUNDS["gray"]
    verdict = judge(clip)
    assert verdict.shape is None and verdict.direction is None


def test_object_that_fills_the_frame_has_no_shape():
    clip = np.zeros((25, 64, 64, 3), np.float32)
    clip[:, 6:-6, 6:-6, 0] = 1
    assert judge(clip).shape is None


def test_a_plus_sign_is_no_known_shape():
    clip = np.zeros((25, 64, 64, 3), np.float32)
    clip[:, 12:52, 30:34] = clip[:, 30:34, 12:52] = 1
    assert judge(clip).shape is None


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes(size: int):
    rng = np.random.default_rng(6)
    scenes = [random_scene(rng) for _ in range(40)]
    assert np.mean([judge(draw(scene, size=size)).agrees(scene) for scene in scenes]) >= 0.98


def test_shape_of_the_input_is_checked():
    with pytest.raises(ValueError, match="frames, height, width"):
        judge(np.zeros((64, 64, 3), np.float32))
