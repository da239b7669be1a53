"""Graphs as the editor saves them, as the API takes them, and what the host says of them as they are queued."""

import asyncio
import json
from pathlib import Path
from typing import Any

import execution
import nodes

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
NOTES = ("Note", "MarkdownNote")
IN_FILE = "in the file itself"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def inputs_of(kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (type, options) of a node's inputs, in the order in which the editor makes them."""
    definition = nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()
    groups = (definition.get(group, {}) for group in ("required", "optional"))
    pairs = [(name, entry) for group in groups for name, entry in group.items()]
    return {
        name: ("COMBO" if isinstance(entry[0], list) else str(entry[0]), entry[1] if len(entry) > 1 else {})
        for name, entry in pairs
    }


def to_api(graph: dict[str, Any], may_lack_widgets: bool = False) -> dict[str, Any]:
    """What the editor sends to the queue for a graph that it has loaded.

    may_lack_widgets: the graph was saved before its nodes had their last widgets, which get their defaults.
    """
    links = {link[0]: link for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES or node["mode"] != 0:
            continue
        values, inputs = iter(node["widgets_values"]), {}
        for name, (kind, options) in inputs_of(node["type"]).items():
            if kind in WIDGETS:
                inputs[name] = next(values, options.get("default")) if may_lack_widgets else next(values)
                if options.get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert not list(values), f"{node['type']} has too many widget values"
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is not None:
                _, source, output, target, target_slot, _ = links[socket["link"]]
                assert (target, target_slot) == (node["id"], slot)
                inputs[socket["name"]] = [str(source), output]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def without_titles(api: dict[str, Any]) -> dict[str, Any]:
    """The part of an API graph that decides its result."""
    return {number: {"class_type": node["class_type"], "inputs": node["inputs"]} for number, node in api.items()}


def complaints(prompt: dict[str, Any]) -> dict[str, str]:
    """What the host says of a prompt as it is queued: node -> its messages."""
    valid, _, _, errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    assert valid == (not errors)
    return {node: " ".join(e["details"] for e in error["errors"]) for node, error in errors.items()}


def whole(small: Any, **changes: Any) -> dict[str, Any]:
    """A whole graph in API format; `changes` are `node__input` = value."""
    nodes = {
        "t5": ("MochiParallelLoadT5", {"file": small.t5, "dtype": "auto", "device": "default"}),
        "dit": ("MochiParallelLoadDiT", {"file": small.dit, "dtype": "auto"}),
        "vae": ("MochiParallelLoadVAE", {"file": small.vae, "encoder_file": IN_FILE, "dtype": "auto"}),
        "positive": ("MochiParallelTextEncode", {"clip": ["t5", 0], "prompt": "a red circle"}),
        "negative": ("MochiParallelTextEncode", {"clip": ["t5", 0], "prompt": ""}),
        "sampler": (
            "MochiParallelSampler",
            {"model": ["dit", 0], "positive": ["positive", 0], "negative": ["negative", 0], "seed": 1, "steps": 4}
            | {"cfg": 4.0, "width": 64, "height": 64, "frames": 7, "batch_size": 1},
        ),
        "decode": ("MochiParallelVAEDecode", {"vae": ["vae", 0], "samples": ["sampler", 0]}),
        "save": (
            "MochiParallelSaveVideo",
            {"images": ["decode", 0], "fps": 30.0, "format": "mp4", "quality": 70, "filename_prefix": "video/mochi"},
        ),
    }
    for key, value in changes.items():
        node, _, name = key.partition("__")
        nodes[node][1][name] = value
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
