"""The ids that the nodes had in earlier releases: `MochiSampler` for `MochiParallelSampler`, and so on.

Two of them, `MochiSampler` and `MochiTextEncode`, are those of ComfyUI-MochiWrapper too. What was saved with old ids
gets the new ones where it comes in: graphs in the editor (web/old_ids.js), prompts in the queue (here). Nodes that come
in another way, such as a published subgraph, find the old ids, or are replaced where the host can do that.
"""

import importlib
from collections.abc import Collection, Mapping
from typing import Any

from comfy_api.latest import io
from server import PromptServer

PREFIX, OLD_PREFIX = "MochiParallel", "Mochi"
KEPT = (
    "MochiParallelSettings",
    "MochiParallelImageToVideo",
    "MochiParallelTransition",
    "MochiParallelBatch",
    "MochiParallelTrainLoRA",
    "MochiParallelSafety",
)
"""Ids that have always been these."""


def old_ids(ids: Collection[str]) -> dict[str, str]:
    """Old id -> id, of those that have changed."""
    return {OLD_PREFIX + node_id.removeprefix(PREFIX): node_id for node_id in ids if node_id not in KEPT}


def serve_old_ids(ours: Mapping[str, Any]) -> None:
    """Let what was saved with old ids go on working. ours: id -> node."""
    now, server = old_ids(ours), getattr(PromptServer, "instance", None)
    host_nodes: dict[str, Any] = importlib.import_module("nodes").NODE_CLASS_MAPPINGS  # ComfyUI's, not this package
    if server is not None:
        server.add_on_prompt_handler(lambda request: _renamed_in(request, ours, now))
    replacements = getattr(server, "node_replace_manager", None)  # since January 2026
    for old, new in now.items():
        if replacements is not None:
            replacements.register(io.NodeReplace(new, old))  # pyright: ignore[reportAttributeAccessIssue]  # see above
        else:
            host_nodes.setdefault(old, _deprecated(ours[new], old))


def renamed(prompt: Mapping[str, Any], ours: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, Any]:
    """A prompt with the new ids.

    A node with an old id is ours if ours takes all its inputs: the editor sends every widget, and those of the other
    pack have other names.

    Args:
        ours: id -> node.
        now: old id -> id.
    """

    def entry(node: Any) -> Any:
        match node:
            case {"class_type": str(old), "inputs": dict(inputs)} if old in now:
                new = now[old]
                return {**node, "class_type": new} if inputs.keys() <= _input_names(ours[new]) else node
        return node  # it may be anything: ComfyUI says what is wrong with it

    return {number: entry(node) for number, node in prompt.items()}


def _renamed_in(request: dict[str, Any], ours: Mapping[str, Any], now: Mapping[str, str]) -> dict[str, Any]:
    prompt = request.get("prompt")
    return {**request, "prompt": renamed(prompt, ours, now)} if isinstance(prompt, dict) else request


def _input_names(node: Any) -> set[str]:
    return {entry.id for entry in node.define_schema().inputs}


def _deprecated(node: Any, old: str) -> Any:
    """The same node by its old id. The editor does not offer it for new graphs."""

    def define_schema(cls: Any) -> io.Schema:
        schema = node.define_schema()
        schema.node_id, schema.is_deprecated = old, True
        return schema

    return type(node.__name__, (node,), {"define_schema": classmethod(define_schema), "__module__": node.__module__})
