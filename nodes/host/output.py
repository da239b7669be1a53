"""Results of nodes: names in ComfyUI's output folder, the metadata to embed, and what a node shows."""

import json
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ...mochi.errors import MochiError
from ...mochi.video import FORMATS, check_writable
from .checks import check_choice


def check_prefix(prefix: str, format: str) -> None:
    """Raise MochiError for a filename prefix that has no name, leaves the output folder, or cannot be written to."""
    check_choice("format", format, FORMATS)
    output = Path(os.path.abspath(folder_paths.get_output_directory()))
    path = Path(os.path.abspath(output / prefix.replace("\\", "/")))
    if not path.is_relative_to(output):
        raise MochiError(
            f"filename_prefix {prefix!r} leaves ComfyUI's output folder, {output}: write a path inside it."
        )
    if path == output or prefix.endswith(("/", "\\", ".")):
        raise MochiError(f"filename_prefix is {prefix!r}, but must end in a name for the files, such as video/mochi.")
    check_writable(path.with_name("mochi_00000_"), format)


def next_path(prefix: str, format: str, width: int, height: int) -> Path:
    """The next free, numbered path for a prefix, as ComfyUI's own save nodes count. A folder of PNG has no suffix."""
    check_prefix(prefix, format)
    output = folder_paths.get_output_directory()
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    return Path(folder, f"{name}_{counter:05}_" + ("" if format == "png" else f".{format}"))


def metadata_of(hidden: io.HiddenHolder) -> dict[str, str]:
    """Prompt and workflow under the names that ComfyUI's editor looks for, as JSON; nothing with --disable-metadata."""
    if args.disable_metadata:
        return {}
    prompt = {} if hidden.prompt is None else {"prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in {**(hidden.extra_pnginfo or {}), **prompt}.items()}


def show(path: Path) -> ui.PreviewVideo | ui.SavedImages:
    """The part of a node's result that it shows: a video, or pictures; the editor takes a gif for a picture."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    subfolder = os.path.relpath(files[0].parent, folder_paths.get_output_directory())
    subfolder = "" if subfolder == "." else subfolder
    saved = [ui.SavedResult(file.name, subfolder, io.FolderType.output) for file in files]
    return ui.PreviewVideo([*saved]) if path.suffix in (".mp4", ".webm") else ui.SavedImages(saved)
