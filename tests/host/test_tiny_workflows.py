"""The workflows that make a clip of a clip, with the tiny model: what is kept, and what is new."""

import json
import re
from dataclasses import astuple

import numpy as np
import pytest

from tests.host.conftest import Comfy
from tests.host.test_server import API_WORKFLOWS, frames_of
from tiny.judge import judge

SHAPE = (25, 64, 64, 3)


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
