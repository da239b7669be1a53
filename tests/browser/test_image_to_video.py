"""A picture that a person drops becomes the beginning of a video."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import WORKFLOWS
from tests.browser.editor import LOADERS, AnyEditor
from tests.host.conftest import Comfy
from tests.host.test_server import frames_of
from tests.host.test_tiny_workflows import SOFT, off

PROMPT = "a blue square moves up on a white background"
WHITE, BLUE = (255, 255, 255), (26, 41, 235)
PLACES = itertools.count(20, 4)  # another one each time: the server would not encode the same picture twice
HAS_PICTURE = "id => app.graph.getNodeById(id).widgets.some(widget => String(widget.value).startsWith('square'))"


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """A blue square on white, where no prompt says that it is, in a file that is wider than the video."""
    picture = Image.new("RGB", (96, 64), WHITE)
    left = next(PLACES)
    picture.paste(BLUE, (left, 34, left + 20, 54))
    picture.save(tmp_path / "square.png")
    return tmp_path / "square.png"


def template(name: str) -> tuple[dict, dict[str, int]]:
    """A workflow, and the numbers of its nodes by their type or title."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return workflow, {node.get("title") or node["type"]: node["id"] for node in workflow["nodes"]}


def test_a_video_starts_with_the_picture_that_was_dropped(
    editor: AnyEditor, comfy: Comfy, square: Path, screenshot: Callable[[str], None]
):
    workflow, number = template("tiny_image_to_video")
    editor.open(workflow)
    loader = editor.drop_picture(square)
    editor.page.wait_for_function(HAS_PICTURE, arg=loader)
    given = number["MochiParallelImageToVideo"]
    editor.link(loader, 0, given, "image")
    editor.set(number["Prompt"], prompt=PROMPT)
    editor.set(number["MochiParallelLoadDiT"], variant="frames")
    editor.set(number["MochiParallelSampler"], steps=4)
    before = set(comfy.output.rglob("*.mp4"))
    editor.run()
    editor.wait_for_picture(given)  # what is used of it
    editor.video()
    screenshot("at its end")

    (video,) = set(comfy.output.rglob("*.mp4")) - before
    frames, used = frames_of(video), np.asarray(Image.open(square))[:, 16:80] / 255
    assert off(frames[0], used) < SOFT


def test_a_picture_is_dropped_on_its_loader(editor: AnyEditor, square: Path):
    workflow, number = template("mochi_image_to_video")
    editor.open(workflow)
    assert "pusa_v0_dit.safetensors" in editor.missing()
    editor.drop_on(number["Picture"], square)
    editor.page.wait_for_function(HAS_PICTURE, arg=number["Picture"])
    assert editor.page.evaluate(LOADERS) == [number["Picture"]]
