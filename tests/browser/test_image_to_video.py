"""A picture that a person drops becomes the beginning of a video."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.comfyui import PROJECT
from tests.browser.editor import AnyEditor
from tests.host.conftest import Comfy
from tests.host.test_server import frames_of

WORKFLOW = PROJECT / "workflows" / "tiny_image_to_video.json"
WHITE, BLUE = (255, 255, 255), (26, 41, 235)
# The picture has been through encoder, decoder and mp4, which soften edges. One pixel aside is an error of 0.04.
CLOSE = 0.06


def drawn(file: Path) -> np.ndarray:
    """A blue square on white, where no prompt says that it is, in a file that is wider than the video. The middle of it."""
    picture = Image.new("RGB", (96, 64), WHITE)
    picture.paste(BLUE, (22, 34, 42, 54))
    picture.save(file)
    return np.asarray(picture)[:, 16:80] / 255


def test_a_video_starts_with_the_picture_that_was_dropped(
    editor: AnyEditor, comfy: Comfy, tmp_path: Path, screenshot: Callable[[str], None]
):
    picture = drawn(tmp_path / "blue_square.png")
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    ids = {node["type"]: node["id"] for node in workflow["nodes"]}
    loader, given, prompt = ids["LoadImage"], ids["MochiParallelImageToVideo"], "a blue square moves up on a white background"
    editor.open(workflow)
    editor.drop(tmp_path / "blue_square.png", loader)
    editor.page.wait_for_function(
        "id => app.graph.getNodeById(id).widgets.find(w => w.name === 'image').value.startsWith('blue_square')", arg=loader
    )
    editor.link(loader, 0, given, "image")
    positive = next(node["id"] for node in workflow["nodes"] if node.get("title") == "Prompt")
    editor.set(positive, prompt=prompt)
    editor.set(ids["MochiParallelLoadDiT"], variant="frames")
    editor.set(ids["MochiParallelSampler"], steps=4)
    before = set(comfy.output.rglob("*.mp4"))
    editor.run()
    editor.wait_for_picture(given)  # what the node shows of the picture
    editor.video()
    screenshot("at its end")

    (video,) = set(comfy.output.rglob("*.mp4")) - before
    frames = frames_of(video)
    assert np.abs(frames[0] - picture).mean() < CLOSE
    assert np.abs(frames[-1] - picture).mean() > CLOSE  # it has moved
