"""What people have saved still opens and runs. `compatibility/` holds what they have:

- `nodes.json`: the nodes' outside, one input a line. A node may get further inputs: optional ones, behind all others.
- `workflows.sha256`: the workflows that were shipped. Where one changes, keep the old file in `compatibility/` and name
  it here, so that it goes on being tested.
- `tiny_text_to_video.mp4`: a video with its workflow inside.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import av
import pytest
from graphs import complaints, read, to_api, without_titles

FOLDER = Path(__file__).parent / "compatibility"
WORKFLOWS = Path(__file__).resolve().parents[3] / "workflows"
NODES = read(FOLDER / "nodes.json")
HASHES = {name: digest for digest, name in map(str.split, (FOLDER / "workflows.sha256").read_text().splitlines())}
NAMES = [name for name in HASHES if not name.startswith("api/")]
LOADERS = ("MochiParallelLoadDiT", "MochiParallelLoadT5", "MochiParallelLoadVAE", "LoadVideo")


@pytest.fixture(scope="session")
def now(pack) -> dict[str, str]:
    """Old id -> id."""
    return pack.module("nodes.host.old_ids").old_ids(pack.nodes)


@pytest.fixture(scope="session")
def opened(pack, now):
    """A saved prompt as it comes into the queue."""
    return lambda prompt: pack.module("nodes.host.old_ids").renamed(prompt, pack.nodes, now)


def inputs_now(node: Any) -> list[dict[str, Any]]:
    """The node's inputs in the order in which the editor makes them."""
    groups = node.GET_NODE_INFO_V1()["input"]
    return [
        {"name": name, "group": group, "type": kind, **(options[0] if options else {})}
        for group in ("required", "optional")
        for name, (kind, *options) in groups.get(group, {}).items()
    ]


def assert_takes_the_same(now: dict[str, Any], before: dict[str, Any]) -> None:
    """An input takes every value that it took before, and has the same one where a person gives none."""
    assert set(before.get("options", [])) <= set(now.get("options", []))
    if "min" in before:
        assert now["min"] <= before["min"] and before["max"] <= now["max"]
    for key in before.keys() - {"options", "min", "max"}:
        assert now.get(key) == before[key], key


@pytest.mark.parametrize("node_id", NODES)
def test_inputs_are_those_of_before(pack, now, node_id: str):
    before, inputs = NODES[node_id]["inputs"], inputs_now(pack.nodes[now.get(node_id, node_id)])
    kept, new = inputs[: len(before)], inputs[len(before) :]
    assert [entry["name"] for entry in kept] == [entry["name"] for entry in before]
    for ours, theirs in zip(kept, before, strict=True):
        assert_takes_the_same(ours, theirs)
    assert all(entry["group"] == "optional" for entry in new), "a saved graph has no value for it"


@pytest.mark.parametrize("node_id", NODES)
def test_name_and_outputs_are_those_of_before(pack, now, node_id: str):
    before, node = NODES[node_id], pack.nodes[now.get(node_id, node_id)].GET_NODE_INFO_V1()
    for key in ("display_name", "category", "output_node"):
        assert node[key] == before[key]
    outputs = [list(pair) for pair in zip(node["output"], node["output_name"], strict=True)]
    assert outputs[: len(before["outputs"])] == before["outputs"]
    assert sorted(node["input"].get("hidden", {})) == before["hidden"]


@pytest.mark.parametrize("name", HASHES)
def test_the_workflows_are_those_that_were_shipped(name: str):
    assert hashlib.sha256(workflow(name).read_bytes()).hexdigest() == HASHES[name], f"keep the old {name}: see above"


def workflow(name: str) -> Path:
    return next(path for path in (FOLDER / name, WORKFLOWS / name) if path.exists())


def on_canvas(graph: dict[str, Any], now: dict[str, str]) -> dict[str, Any]:
    """A saved graph as the editor opens it, see web/old_ids.js."""
    return graph | {"nodes": [node | {"type": now.get(node["type"], node["type"])} for node in graph["nodes"]]}


@pytest.mark.parametrize("name", NAMES)
def test_old_workflows_are_still_queued(opened, now, name: str):
    api = opened(without_titles(read(workflow(f"api/{name}"))))
    prompt = to_api(on_canvas(read(workflow(name)), now), may_lack_widgets=True)
    for number, node in api.items():
        assert node["inputs"].items() <= prompt[number]["inputs"].items()
    for queued in (api, prompt):
        said = complaints(queued)
        if name.startswith("mochi_"):  # its weights and clips are not on the machine that tests
            said = {number: text for number, text in said.items() if queued[number]["class_type"] not in LOADERS}
        assert not said


def test_the_graph_in_an_old_video_is_still_queued(opened, now):
    with av.open(str(FOLDER / "tiny_text_to_video.mp4")) as video:
        prompt, graph = (json.loads(video.metadata[key]) for key in ("prompt", "workflow"))
    prompt = opened(prompt)
    assert complaints(prompt) == {}
    opens_as = to_api(on_canvas(graph, now), may_lack_widgets=True)
    assert prompt.keys() == opens_as.keys()
    for number, node in prompt.items():
        assert node["class_type"] == opens_as[number]["class_type"]
        assert node["inputs"].items() <= opens_as[number]["inputs"].items()
