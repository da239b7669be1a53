"""Describes the graph of ComfyUI that is embedded in a video."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import first_few
from .shown import setting_in_words, shown

SETTINGS = {
    "prompt", "text", "seed", "noise_seed", "steps", "cfg", "cfg_schedule", "sampler_name", "scheduler", "denoise",
    "width", "height", "frames", "length", "fps", "frame_rate", "stg_scale", "strength", "strength_model", "threshold",
}  # fmt: skip
"""Widgets that say how a video was made, of our nodes and of ComfyUI's own."""

WEIGHTS = (".safetensors", ".sft", ".gguf")


@dataclass(frozen=True)
class Workflow:
    """The nodes of a graph.

    Attributes:
        nodes: how many there are of each type.
        settings: the main ones of each node, by its number and type; only a graph that was run has them.
    """

    nodes: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        count = sum(self.nodes.values())
        names = first_few((shown(name) for name in self.nodes), 8)
        lines = [f"  workflow of ComfyUI in it: {count} node{'s' * (count != 1)} ({names})"]
        for node, settings in self.settings.items():
            said = ", ".join(setting_in_words(name, value) for name, value in settings.items())
            lines.append(f"    {shown(node)}: {said}")
        return lines


def workflow_of(metadata: Mapping[str, str]) -> Workflow | None:
    """The graph in a video's metadata; None where there is none. The one that was run goes before the one drawn."""
    prompt = _parsed(metadata.get("prompt"))
    nodes = {str(number): node for number, node in prompt.items() if _is_node(node)}
    if nodes:
        main = {f"{number} {node['class_type']}": _main(node) for number, node in nodes.items()}
        count = Counter(node["class_type"] for node in nodes.values())
        return Workflow(dict(count), {node: settings for node, settings in main.items() if settings})
    drawn = _parsed(metadata.get("workflow")).get("nodes")
    types = [node.get("type") for node in drawn if isinstance(node, dict)] if isinstance(drawn, list) else []
    return Workflow(dict(Counter(map(str, types)))) if types else None


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        values = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _is_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _main(node: Mapping[str, Any]) -> dict[str, Any]:
    inputs = node["inputs"].items()
    return {name: value for name, value in inputs if _is_weights(value) or (name in SETTINGS and _is_said(value))}


def _is_said(value: Any) -> bool:
    """Whether a widget says something: a link to another node, which is a list, does not."""
    return isinstance(value, (int, float)) or (isinstance(value, str) and value != "")


def _is_weights(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(WEIGHTS)
