"""The pack in a running ComfyUI: it loads, its nodes are listed, and the tiny workflow makes a video."""

import json
import re
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import av
import numpy as np
import pytest

from scripts.blueprint_format import DrawnBlueprint
from scripts.blueprints import BLUEPRINTS
from scripts.client import PromptFailed, PromptRejected
from scripts.comfyui import PACK_NAME, PROJECT
from scripts.make_workflows import GRAPHS
from scripts.workflow_format import Drawn, Graph
from tests.host.conftest import Comfy
from tiny.judge import judge

API_WORKFLOWS = PROJECT / "workflows" / "api"
DESCRIBED = {graph.name: graph for graph in (function() for function in GRAPHS)}


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


@pytest.mark.parametrize("name", ["file", "gpus"])
def test_a_complaint_is_shown_once_at_its_widget(comfy, name):
    prompt = tiny_prompt()
    (loader,) = (number for number, node in prompt.items() if "attention" in node["inputs"])
    prompt[loader]["inputs"][name] = "absent"
    with pytest.raises(PromptRejected) as refusal:
        comfy.client.queue(prompt)
    (error,) = refusal.value.details["node_errors"][loader]["errors"]
    assert error["extra_info"]["input_name"] == name and "absent" in error["details"]


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


def skip_where_it_lacks_nodes(comfy: Comfy, graph: Graph) -> None:
    lacking = graph.lacking(comfy.client.object_info())
    if lacking:
        pytest.skip(f"this ComfyUI does not have {', '.join(lacking)}")


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_workflows_are_those_of_their_descriptions(comfy, graph):
    """Whatever the host's version is, but for how it calls its own nodes."""
    skip_where_it_lacks_nodes(comfy, graph())
    drawn, ours = Drawn(graph(), comfy.client.object_info()), comfy.pack_nodes()

    def without_builtin_titles(api: dict) -> dict:
        return {n: node if node["class_type"] in ours else node | {"_meta": None} for n, node in api.items()}

    for folder, content, compared in (
        (API_WORKFLOWS.parent, drawn.editor(), lambda graph: graph),
        (API_WORKFLOWS, drawn.api(), without_builtin_titles),
    ):
        file = folder / f"{drawn.graph.name}.json"
        same = compared(json.loads(file.read_text(encoding="utf-8"))) == compared(json.loads(json.dumps(content)))
        assert same, f"{file.name}: run `python -m scripts.make_workflows`"


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.__name__)
def test_blueprints_are_those_of_their_descriptions(comfy, blueprint):
    """As the host serves them to the editor's node library."""
    drawn = DrawnBlueprint(blueprint(), comfy.client.object_info())
    served = {entry["name"]: id for id, entry in comfy.client.get("/global_subgraphs").items()}
    file = json.loads(comfy.client.get(f"/global_subgraphs/{served[drawn.name]}")["data"])
    assert file == json.loads(json.dumps(drawn.editor())), "run `python -m scripts.make_workflows`"


@pytest.mark.parametrize("file", sorted(API_WORKFLOWS.glob("*.json")), ids=lambda file: file.stem)
def test_workflows_use_nodes_that_exist(comfy, file: Path):
    skip_where_it_lacks_nodes(comfy, DESCRIBED[file.stem])
    known = comfy.client.object_info()
    for node in json.loads(file.read_text()).values():
        assert node["class_type"] in known
        info = known[node["class_type"]]["input"]
        inputs = {**info.get("required", {}), **info.get("optional", {})}
        unknown = set(node["inputs"]) - set(inputs)
        # A dynamic widget's parts are written `widget.part`.
        assert not {name for name in unknown if name.split(".")[0] not in inputs}, (node["class_type"], unknown)
