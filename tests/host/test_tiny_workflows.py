"""The workflows that make a clip of a clip or of a picture, with the tiny model: what is kept, and what is new."""

import json
import re
from dataclasses import astuple

import numpy as np
import pytest

from tests.host.conftest import Comfy
from tests.host.test_server import API_WORKFLOWS, frames_of
from tiny.judge import judge

SHAPE = (25, 64, 64, 3)
SOFT = 0.1  # encoder, decoder and mp4 soften edges. A shape that is not there is off by 0.3 and more, see `off`.


@pytest.fixture
def clips(comfy: Comfy, request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """The clip that the workflow begins with, and the one that it makes of it."""
    graph = json.loads((API_WORKFLOWS / f"{request.param}.json").read_text(encoding="utf-8"))
    prefixes = [
        node["inputs"]["filename_prefix"] for node in graph.values() if node["class_type"] == "MochiParallelSaveVideo"
    ]
    assert "video/mochi_tiny" in prefixes
    files = [path for path in comfy.client.run(graph, timeout=300).paths(comfy.output) if path.suffix == ".mp4"]
    files.sort(key=lambda file: not re.fullmatch(r"mochi_tiny_\d+_.mp4", file.name))
    first, second = map(frames_of, files)
    assert first.shape == second.shape == SHAPE
    assert astuple(judge(first)) == ("circle", "red", "left", "black")
    return first, second


def blue(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 2] > 0.5) & (frames[..., 0] < 0.3)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("clips", ["tiny_video_to_video"], indirect=True)
def test_a_clip_made_anew_is_of_its_new_prompt(clips):
    assert judge(clips[1]).colour == "blue"


@pytest.mark.parametrize("clips", ["tiny_edit"], indirect=True)
def test_an_edited_clip_moves_as_it_did(clips):
    assert astuple(judge(clips[1])) == ("circle", "blue", "left", "black")


@pytest.mark.parametrize("clips", ["tiny_extend"], indirect=True)
def test_a_clip_goes_on(clips):
    first, second = clips
    # The frames have been through encoder, decoder and mp4 once more.
    assert distance(first[:13], second[:13]) < 0.02
    assert astuple(judge(second)) == ("circle", "red", "left", "black")
    assert np.abs(first[13:] - second[13:]).max() > 0.3  # made anew, of other noise


@pytest.mark.parametrize("clips", ["tiny_replace_area"], indirect=True)
def test_an_area_is_made_anew(clips):
    first, second = clips
    # A column of latents at the border, whose pixels the decoder makes of both sides, is left out.
    assert distance(first[:, :, :24], second[:, :, :24]) < 0.02
    assert not blue(first).any()
    assert blue(second)[:, :, 32:].sum() > 25 * 30
    assert blue(second)[:, :, :24].sum() == 0


def made_by(comfy: Comfy, name: str) -> list[np.ndarray]:
    """The clips of a workflow, in the order in which it saves them."""
    graph = json.loads((API_WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    files = [path for path in comfy.client.run(graph, timeout=300).paths(comfy.output) if path.suffix == ".mp4"]
    return [frames_of(file) for file in files]


def off(frame: np.ndarray, picture: np.ndarray) -> float:
    """The mean error of a frame where the picture shows its shape, whose background is in the corner."""
    shape = np.abs(picture - picture[0, 0]).max(-1) > 0.3
    return distance(frame[shape], picture[shape])


def drawn(x: int) -> np.ndarray:
    """The picture that the workflows draw: a red square at these columns of a gray picture."""
    picture = np.full(SHAPE[1:], 0.5)
    picture[22:42, x : x + 20] = 0.9, 0.08, 0.08
    return picture


def test_a_clip_starts_with_a_picture(comfy: Comfy):
    (clip,) = made_by(comfy, "tiny_image_to_video")
    assert off(clip[0], drawn(8)) < SOFT
    assert astuple(judge(clip)) == ("square", "red", "right", "gray")


def test_a_clip_starts_and_ends_with_a_picture(comfy: Comfy):
    (clip,) = made_by(comfy, "tiny_start_and_end")
    assert off(clip[0], drawn(6)) < SOFT and off(clip[-1], drawn(28)) < SOFT
    assert astuple(judge(clip)) == ("square", "red", "right", "gray")


def test_a_clip_comes_back(comfy: Comfy):
    clip, back = sorted(made_by(comfy, "tiny_transition"), key=lambda frames: judge(frames).direction != "left")
    assert off(back[0], clip[-7]) < SOFT and off(back[-1], clip[6]) < SOFT
    assert astuple(judge(back)) == ("circle", "red", "right", "black")


def test_skip_layer_guidance_keeps_to_its_prompt(comfy: Comfy):
    (clip,) = made_by(comfy, "tiny_skip_layer_guidance")
    assert astuple(judge(clip)) == ("circle", "red", "left", "black")
