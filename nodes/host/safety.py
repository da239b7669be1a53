"""Safety checks inside ComfyUI: where their files lie, where their log is, and what goes over their socket."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...mochi.errors import MochiError
from ...mochi.safety import Guard, SafetySettings
from ...mochi.safety.images import Classifier
from ...mochi.safety.log import NAME
from ...mochi.safety.words import WordList


class Checks(NamedTuple):
    """What the socket MOCHI_SAFETY carries: settings for other machines, and the guard of this process."""

    settings: SafetySettings
    guard: Guard


def folder() -> Path:
    """For lists of words, settings and classifiers."""
    return Path(folder_paths.models_dir, "safety")


def log() -> Path:
    """In the user folder: what is in the output folder can be fetched by whoever reaches ComfyUI."""
    return Path(folder_paths.get_user_directory(), NAME)


def words_of(text: str) -> SafetySettings:
    """A list of words in a widget."""
    return SafetySettings(words=(WordList("words", text),) if text.strip() else ())


def classifier_of(name: str, labels: str, threshold: float, every: int) -> SafetySettings:
    """A classifier in `folder`, anywhere, or in the hub's cache."""
    name = name.strip()
    if not name:
        return SafetySettings()
    inside = folder() / name
    chosen = tuple(label.strip() for label in labels.split(",") if label.strip())
    return SafetySettings(images=(Classifier(str(inside) if inside.is_dir() else name, chosen, threshold, every),))


def checks_of(names: str) -> SafetySettings:
    """Files in `folder` and installed checks, with commas between them."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    root = os.path.abspath(folder())
    for name in asked:
        if not Path(os.path.abspath(os.path.join(root, name))).is_relative_to(root):
            raise MochiError(f"checks has {name!r}, but must have names of files in {root}, or of installed checks")
    return SafetySettings.of(asked, Path(root))


def settings_of(hidden: io.HiddenHolder) -> dict[str, Any]:
    """What the log says of a video: its graph, with all its widgets."""
    return {"graph": hidden.prompt}


def not_linked(name: str) -> ExecutionBlocker:
    """For an output whose input has no link: says so where something uses it."""
    return ExecutionBlocker(f"Mochi Safety gives {name}, but gets none: link its input `{name}`.")
