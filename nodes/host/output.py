"""Results of nodes: names in ComfyUI's output folder, the metadata to embed, and what a node shows."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ...mochi.errors import MochiError
from ...mochi.text.characters import check_text
from ...mochi.video import FORMATS, check_writable
from ...mochi.video.names import NAME_LENGTH, made_storable
from ...mochi.video.paths import limit
from .checks import check_choice
from .prefix import fill, widgets_of

COUNTER = "_00000_"
"""What ComfyUI puts behind a name, and is filled in by then."""

PLAYED = (".mp4", ".webm")
"""What the editor shows as a video."""

SERVER = re.compile("%(width|height|year|month|day|hour|minute|second)%")
"""What ComfyUI's own `get_save_image_path` fills in, with 5 digits at most."""


def check_prefix(prefix: str, format: str) -> None:
    """Raise MochiError for a filename prefix that has no name, leaves the output folder, or cannot be written to.

    Values of other nodes are not known yet. They are made to fit when they are.
    """
    check_choice("format", format, FORMATS)
    check_text("filename_prefix", prefix)
    _check(fill(_slashes(prefix), lambda node, widget: "_"), prefix, format)


def _check(filled: str, prefix: str, format: str) -> None:
    output = Path(os.path.abspath(folder_paths.get_output_directory()))
    filled = SERVER.sub("00000", filled)
    path = Path(os.path.abspath(output / filled))
    if not path.is_relative_to(output):
        raise MochiError(
            f"filename_prefix {prefix!r} leaves ComfyUI's output folder, {output}: write a path inside it."
        )
    if path == output or filled.rpartition("/")[2] in ("", ".", ".."):
        raise MochiError(f"filename_prefix is {prefix!r}, but must end in a name for the files, such as video/mochi.")
    check_writable(path.with_name(f"{path.name}{COUNTER}{_suffix(format)}"), format)


def next_path(prefix: str, format: str, width: int, height: int, hidden: io.HiddenHolder) -> Path:
    """The next free, numbered path for a prefix, as ComfyUI's own save nodes count. A folder of PNG has no suffix."""
    output = folder_paths.get_output_directory()
    slashes = _slashes(prefix)
    filled = fill(slashes, widgets_of(hidden.prompt or {}, _extra(hidden).get("workflow")))
    if filled != slashes:
        most = limit(Path(output), "PC_NAME_MAX", NAME_LENGTH) - len(COUNTER + _suffix(format)) - 2  # a longer counter
        parts = (part and made_storable(part, most) for part in filled.split("/"))
        filled = "/".join(parts)
        filled += "_" if filled.endswith("/") or not filled else ""  # the value at the end was empty
    _check(filled, prefix, format)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(filled, output, width, height)
    return Path(folder, f"{name}_{counter:05}_{_suffix(format)}")


def _slashes(prefix: str) -> str:
    """One sign between folders on every system."""
    return prefix.replace("\\", "/")


def _suffix(format: str) -> str:
    return "" if format == "png" else f".{format}"


def _extra(hidden: io.HiddenHolder) -> dict[str, Any]:
    """What the editor sends along; from other clients it may be anything."""
    return hidden.extra_pnginfo if isinstance(hidden.extra_pnginfo, dict) else {}


def metadata_of(hidden: io.HiddenHolder) -> dict[str, str]:
    """Prompt and workflow under the names that ComfyUI's editor looks for, as JSON; nothing with --disable-metadata."""
    if args.disable_metadata:
        return {}
    prompt = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in {**_extra(hidden), **prompt}.items()}


def show(path: Path) -> ui.PreviewVideo | ui.SavedImages:
    """The part of a node's result that it shows: a video, or pictures; the editor takes a gif for a picture."""
    saved = [_saved(file) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return ui.PreviewVideo([*saved]) if path.suffix in PLAYED else ui.SavedImages(saved)


def show_all(videos: Sequence[Path]) -> dict[str, Any]:
    """The same of several videos; of a folder its first picture. The editor plays the first one."""
    files = [min(video.iterdir()) if video.is_dir() else video for video in videos]
    return {"images": [_saved(file) for file in files], "animated": (any(file.suffix in PLAYED for file in files),)}


def _saved(file: Path) -> ui.SavedResult:
    subfolder = os.path.relpath(file.parent, folder_paths.get_output_directory())
    return ui.SavedResult(file.name, "" if subfolder == "." else subfolder, io.FolderType.output)
