"""The common part of the nodes' schemas: their frame, and the widgets that several nodes have."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..mochi.config import PREVIEW
from ..mochi.sampling.schedule import SCHEDULES

CATEGORY = "Mochi"
MAX_STEPS = 1000
MAX_SIZE = 16384
MAX_FRAMES = 6 * 2000 + 1

Node: Any = io.ComfyNode
"""The class of every node. Any, since each node's methods take that node's own inputs, and not those of ComfyNode's."""


def schema(
    node_id: str, display_name: str, description: str, found_as: Sequence[str], inputs: list[io.Input], **options: Any
) -> io.Schema:
    """A node's schema.

    Args:
        found_as: Other words by which the editor's search finds the node.
        options: Those of io.Schema, `outputs` among them.
    """
    if "search_aliases" in {field.name for field in fields(io.Schema)}:  # not in ComfyUI 0.3.75 yet
        options["search_aliases"] = list(found_as)
    return io.Schema(node_id, display_name, CATEGORY, inputs, description=description, **options)


def choice(name: str, options: Iterable[str], tooltip: str, optional: bool = False) -> io.Combo.Input:
    """One of several words; the first one is the default."""
    options = list(options)
    return io.Combo.Input(name, options, default=options[0], optional=optional, tooltip=tooltip)


def count(name: str, default: int, limits: tuple[int, int], tooltip: str, **options: Any) -> io.Int.Input:
    """A whole number within limits."""
    return io.Int.Input(name, default=default, min=limits[0], max=limits[1], tooltip=tooltip, **options)


def number(name: str, default: float, limits: tuple[float, float], tooltip: str, **options: Any) -> io.Float.Input:
    """A number within limits."""
    return io.Float.Input(name, default=default, min=limits[0], max=limits[1], tooltip=tooltip, **options)


def fraction(name: str, default: float, tooltip: str, step: float = 0.01, **options: Any) -> io.Float.Input:
    """A number from 0 to 1."""
    return number(name, default, (0.0, 1.0), tooltip, step=step, **options)


def steps(tooltip: str) -> io.Int.Input:
    """The steps of a whole run."""
    return count("steps", PREVIEW.defaults.steps, (1, MAX_STEPS), tooltip)


def cfg(tooltip: str) -> io.Float.Input:
    """The guidance scale."""
    return number("cfg", PREVIEW.defaults.cfg, (0.0, 100.0), tooltip, step=0.05, round=0.01)


def schedule(tooltip: str) -> io.Combo.Input:
    """The noise schedule."""
    return choice("schedule", SCHEDULES, tooltip, optional=True)


def side(name: str, published: int, tiny: int) -> io.Int.Input:
    """The width or height of a video. published, tiny: What these models make."""
    tooltip = (
        f"Of the video, in pixels; a multiple of 16. The published model makes {published}, the tiny one {tiny}. "
        "Ignored when a latent is given."
    )
    return count(name, published, (16, MAX_SIZE), tooltip, step=16)


def frames(least: int, tooltip: str) -> io.Int.Input:
    """The frames of a video, 6k + 1."""
    return count("frames", PREVIEW.defaults.frames, (least, MAX_FRAMES), tooltip, step=6)
