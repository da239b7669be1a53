"""The ids that the nodes had in earlier releases, two of which another pack has too."""

import re
from pathlib import Path

import nodes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import PromptServer

PROJECT = Path(__file__).resolve().parents[3]
OTHERS = {  # what the editor sends for the nodes of ComfyUI-MochiWrapper
    "MochiSampler": ["model", "positive", "negative", "width", "height", "num_frames", "steps", "cfg", "seed"],
    "MochiTextEncode": ["clip", "prompt", "strength", "force_offload"],
    "MochiDecode": ["vae", "samples"],
}


@pytest.fixture(scope="module")
def ids(pack):
    return pack.module("nodes.host.old_ids")


@pytest.fixture(scope="module")
def now(pack, ids) -> dict[str, str]:
    return ids.old_ids(pack.nodes)


def test_every_id_is_ours_alone(pack):
    assert all(node_id.startswith("MochiParallel") for node_id in pack.nodes)


def test_the_editor_knows_the_same_old_ids(now):
    source = (PROJECT / "web" / "old_ids.js").read_text(encoding="utf-8")
    (listed,) = re.findall(r"const CHANGED = \[(.*?)\]", source, re.S)
    assert {"Mochi" + name for name in re.findall(r'"(\w+)"', listed)} == now.keys()


def test_a_prompt_that_was_saved_is_queued_with_todays_ids(pack, now):
    """However little of a node a program sends: ComfyUI fills in what it leaves out."""
    for old, new in now.items():
        node = {"class_type": old, "inputs": dict.fromkeys(pack.nodes[new].INPUT_TYPES().get("required", {}), 1)}
        for inputs in (node["inputs"], {}):
            request = {"prompt": {"7": {**node, "inputs": inputs}}, "client_id": "a"}
            came = PromptServer.instance.trigger_on_prompt(request)
            assert came == {"prompt": {"7": {"class_type": new, "inputs": inputs}}, "client_id": "a"}


@pytest.mark.parametrize("kind", OTHERS)
def test_nodes_of_the_other_pack_stay_what_they_are(kind):
    prompt = {"7": {"class_type": kind, "inputs": dict.fromkeys(OTHERS[kind], 1)}}
    assert PromptServer.instance.trigger_on_prompt({"prompt": prompt}) == {"prompt": prompt}


texts = st.text(max_size=5)
anything = st.recursive(
    st.none() | st.integers() | texts, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner)
)
kinds = st.sampled_from(["MochiSampler", "MochiTextEncode", "KSampler"]) | anything
broken_nodes = st.fixed_dictionaries({}, optional={"class_type": kinds, "inputs": anything})


@given(anything | st.dictionaries(texts, anything | broken_nodes))
def test_what_is_no_prompt_is_left_to_comfyui(prompt):
    """It says what is wrong with it."""
    for handler in PromptServer.instance.on_prompt_handlers:  # itself, since the server only logs what one raises
        assert handler({"prompt": prompt}).keys() == {"prompt"}


def test_old_ids_are_there_or_replaced(pack, now):
    """For what comes in neither by the queue nor as a whole graph: pasted nodes, blueprints that were published."""
    replacements = getattr(PromptServer.instance, "node_replace_manager", None)
    for old, new in now.items():
        if replacements is None:
            info = nodes.NODE_CLASS_MAPPINGS[old].GET_NODE_INFO_V1()
            assert info["deprecated"] and info["input"] == pack.nodes[new].GET_NODE_INFO_V1()["input"]
            assert not pack.nodes[new].GET_NODE_INFO_V1()["deprecated"]
        else:
            assert [found.new_node_id for found in replacements.get_replacement(old)] == [new]


def test_an_id_that_another_pack_has_stays_its_own(pack, ids, monkeypatch):
    theirs = object()
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "MochiSampler", theirs)
    monkeypatch.setattr(PromptServer.instance, "on_prompt_handlers", [])
    ids.serve_old_ids(pack.nodes)
    assert nodes.NODE_CLASS_MAPPINGS["MochiSampler"] is theirs
