"""The lines of a batch, whose files are in ComfyUI's folders and nowhere else."""

import json
import os
from pathlib import Path
from typing import Any

import folder_paths

from ...mochi.batch.job import Job
from ...mochi.errors import MochiError


def lines_of(prompts: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers, as JSON objects of settings.

    A line is a prompt, or such an object. Its output is in ComfyUI's output folder, its pictures in the input folder.
    """
    lines = enumerate(prompts.splitlines(), 1)
    return [(number, _as_json(line.strip())) for number, line in lines if line.strip()]


def _as_json(line: str) -> str:
    if not line.startswith("{"):
        return json.dumps({"prompt": line})
    try:
        settings = json.loads(line)
    except (ValueError, RecursionError):
        return line  # whose flaw is told when it is read
    if isinstance(settings.get("output"), str):
        settings["output"] = os.path.join(folder_paths.get_output_directory(), settings["output"])
    if isinstance(settings.get("images"), list):
        settings["images"] = [_in_input(image) for image in settings["images"]]
    return json.dumps(settings)


def _in_input(image: Any) -> Any:
    folder = folder_paths.get_input_directory()
    if isinstance(image, str):
        return os.path.join(folder, image)
    if isinstance(image, dict) and isinstance(image.get("file"), str):
        return {**image, "file": os.path.join(folder, image["file"])}
    return image


def place_of(prefix: str, format: str) -> Path:
    """The output of lines that name none, before the number is put into its name."""
    return Path(folder_paths.get_output_directory(), f"{prefix.replace(chr(92), '/')}.{format}")


def check_inside(job: Job) -> None:
    """Raise MochiError where a line would write or read anywhere else."""
    _check(job.output, Path(folder_paths.get_output_directory()), "output")
    for image in job.settings.images:
        _check(Path(image.file), Path(folder_paths.get_input_directory()), "input")


def _check(path: Path, folder: Path, name: str) -> None:
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise MochiError(f"{path} is not in ComfyUI's {name} folder, {folder}: write a path inside it")
