"""The pack in a running ComfyUI: it loads, its nodes are listed, and the tiny workflow makes a video."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import av
import pytest

from scripts.client import PromptRejected
from scripts.comfyui import PACK_NAME, PROJECT

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


def test_tiny_workflow_makes_a_video(comfy):
    prompt = json.loads((API_WORKFLOWS / "tiny_text_to_video.json").read_text())
    seen = Counter()
    result = comfy.client.run(prompt, lambda kind, data: seen.update([kind]), timeout=300)
    videos = [path for path in result.paths(comfy.output) if path.suffix == ".mp4"]
    assert len(videos) == 1, result.history["outputs"]
    assert _frame_count(videos[0]) % 6 == 1
    assert seen["progress"] > 1 and seen["preview"] > 0, seen


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


def _frame_count(file: Path) -> int:
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))
