"""Other words by which the editor's search finds a node."""

from __future__ import annotations

from dataclasses import fields

from comfy_api.latest import io


def also_found_as(*words: str) -> dict[str, list[str]]:
    """An argument for a node's Schema, where the host's Schema takes it: that of ComfyUI 0.3.75 does not yet."""
    return {"search_aliases": list(words)} if "search_aliases" in {field.name for field in fields(io.Schema)} else {}
