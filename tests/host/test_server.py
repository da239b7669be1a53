"""The pack in a running ComfyUI: it loads, its nodes are listed, and the tiny workflow makes a video."""

import json
import re
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import av
import numpy as np
import pytest

from scripts.client import PromptFailed, PromptRejected
from scripts.comfyui import PACK_NAME, PROJECT
from scripts.make_workflows import GRAPHS
from scripts.workflow_format import Drawn
from tiny.judge import judge

API_WORKFLOWS = PROJECT / "workflows" / "api"


def test_pack_loads_without_complaint(comfy):
    # ComfyUI writes "0.1 seconds: PATH", or "0.1 seconds (IMPORT FAILED): PATH" after the traceback.
    log = comfy.server.log()
    assert re.search(rf"seconds: .*{PACK_NAME}", log), log


def test_every_node_of_the_table_is_listed(comfy):
    listed = comfy.pack_nodes()
    assert listed, "the host lists no node of this pack"
    for name, info in listed.items():
        assert info["display_name"], name
        assert info["category"], name


def test_unknown_node_is_rejected_with_its_name(comfy):
    with pytest.raises(PromptRejected, match="NoSuchNode"):
        comfy.client.queue({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def tiny_prompt(**widgets: object) -> dict:
    """The tiny workflow, with other values in widgets of its sampler and its prompt."""
    prompt = json.loads((API_WORKFLOWS / "tiny_text_to_video.json").read_text())
    for node in prompt.values():
        if (
            node["class_type"] in ("MochiParallelSampler", "MochiParallelTextEncode")
            and node["_meta"]["title"] != "Negative prompt"
        ):
            node["inputs"].update({name: value for name, value in widgets.items() if name in node["inputs"]})
    return prompt


def frames_of(file: Path) -> np.ndarray:
    """(F, H, W, 3) in [0, 1]."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]) / 255


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a red circle moves left on a black background", ("circle", "red", "left", "black")),
        ("on a white background, a blue square slides down", ("square", "blue", "down", "white")),
    ],
)
def test_tiny_workflow_makes_the_video_that_was_asked_for(comfy, text, scene):
    seen = Counter()
    result = comfy.client.run(tiny_prompt(prompt=text), lambda kind, data: seen.update([kind]), timeout=300)
    videos = [path for path in result.paths(comfy.output) if path.suffix == ".mp4"]
    assert len(videos) == 1, result.history["outputs"]
    assert seen["progress"] > 1 and seen["preview"] > 0, seen
    frames = frames_of(videos[0])
    assert frames.shape == (25, 64, 64, 3)
    assert astuple(judge(frames)) == scene


def test_mixed_workflow_makes_the_same_kind_of_video(comfy):
    """Our loaders between built-in CLIP Text Encode, KSampler and VAE Decode."""
    prompt = json.loads((API_WORKFLOWS / "mixed_with_builtin_nodes.json").read_text())
    result = comfy.client.run(prompt, timeout=300)
    (video,) = (path for path in result.paths(comfy.output) if path.suffix == ".mp4")
    verdict = judge(frames_of(video))
    assert None not in astuple(verdict), verdict


def test_cancel_leaves_no_file_and_the_next_prompt_works(comfy):
    before = set(comfy.output.rglob("*"))

    def cancel_at_first_step(kind: str, data: dict) -> None:
        if kind == "preview":
            comfy.client.interrupt()

    with pytest.raises(PromptFailed) as failure:
        comfy.client.run(tiny_prompt(steps=500, seed=1), cancel_at_first_step, timeout=300)
    assert failure.value.interrupted
    assert {path for path in comfy.output.rglob("*") if path.is_file()} <= before
    assert comfy.client.run(tiny_prompt(seed=2), timeout=300).paths(comfy.output)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_workflows_are_those_of_their_descriptions(comfy, graph):
    drawn = Drawn(graph(), comfy.client.object_info())
    for folder, content in ((API_WORKFLOWS.parent, drawn.editor()), (API_WORKFLOWS, drawn.api())):
        file = folder / f"{drawn.graph.name}.json"
        same = json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(content))
        assert same, f"{file.name}: run `python -m scripts.make_workflows`"


@pytest.mark.parametrize("file", sorted(API_WORKFLOWS.glob("*.json")), ids=lambda file: file.stem)
def test_workflows_use_nodes_that_exist(comfy, file: Path):
    known = comfy.client.object_info()
    for node in json.loads(file.read_text()).values():
        assert node["class_type"] in known
        info = known[node["class_type"]]["input"]
        inputs = {**info.get("required", {}), **info.get("optional", {})}
        unknown = set(node["inputs"]) - set(inputs)
        # A dynamic widget's parts are written `widget.part`.
        assert not {name for name in unknown if name.split(".")[0] not in inputs}, (node["class_type"], unknown)
