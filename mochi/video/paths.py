"""The format and the final path of a video, and whether it can be written there."""

import os
import tempfile
import uuid
from pathlib import Path

from ..errors import MochiError
from .names import NAME_LENGTH, ON_WINDOWS, UNITS, flaw_of, length_of

FORMATS = ("mp4", "webm", "gif", "png")

PATH_LENGTH = 259 if ON_WINDOWS else 4095
"""The most units of a whole path, for systems that do not tell."""


def format_of(path: str | Path) -> str:
    """The format that a file name's suffix picks; raises MochiError on any other suffix."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise MochiError(f"{path}: the name of a video must end in {', '.join('.' + f for f in FORMATS)}")
    return suffix


def target_path(path: str | Path, format: str) -> Path:
    """The path that will exist in the end: for "png" a folder, `name` for `name.png`."""
    path = Path(path)
    return path.with_suffix("") if format == "png" and path.suffix.lower() == ".png" else path


def frame_name(number: int) -> str:
    """The file of a frame in a folder of PNG, counted from 1."""
    return f"frame_{number:05}.png"


def temporary_beside(path: Path) -> Path:
    """A hidden name for what will be `path` once it is whole. It is short, whatever the final one is."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")


def check_writable(path: str | Path, format: str | None = None) -> None:
    """Raise MochiError now if a video could not be written to `path` later.

    Folders on the way need not exist yet. A file that is there will be replaced; a folder of frames
    that is there is never touched.
    """
    format = format or format_of(path)
    target = target_path(path, format)
    if format == "png" and os.path.isfile(target):
        raise MochiError(f"{target}: there is already a file of that name; choose another name")
    inside = frame_name(1) if format == "png" else ""
    check_path(target / inside, temporary_beside(target) / inside)
    if os.path.isdir(target) and (format != "png" or any(target.iterdir())):
        raise MochiError(f"{target}: there is already a folder of that name; choose another name")


def check_path(path: Path, temporary: Path) -> None:
    """Raise MochiError if there could not be a file of that path later: its names, its length, its folder.

    temporary: the path until it is whole, in the same folder.
    """
    folder = next((p for p in path.absolute().parents if os.path.lexists(p)), Path(path.anchor))
    if not os.path.isdir(folder):
        raise MochiError(f"{path}: cannot be written, because {folder} is no folder; choose another name")
    most = limit(folder, "PC_NAME_MAX", NAME_LENGTH)
    for name in path.absolute().relative_to(folder).parts:
        if flaw := flaw_of(name, most):
            raise MochiError(f"{_short(path)}: cannot be written, because the name {_short(name)} {flaw}")
    length = max(length_of(str(path)), length_of(str(temporary)))
    most = limit(folder, "PC_PATH_MAX", PATH_LENGTH + 1) - 1  # which counts the end of the text
    if length > most:
        raise MochiError(
            f"{_short(path)}: cannot be written, because the path is {length} {UNITS} long, and {most} are the most "
            "here; choose a shorter one"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MochiError(f"{path}: cannot be written, because {folder} cannot ({error.strerror})") from error


def limit(folder: Path, name: str, otherwise: int) -> int:
    """A limit of a folder's file system, by its name in POSIX."""
    try:
        found = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):
        return otherwise
    return found if found > 0 else otherwise


def _short(text: str | Path) -> str:
    """For a message, without what a terminal cannot show."""
    text = str(text)
    return repr(text if len(text) <= 120 else f"{text[:60]} ... {text[-30:]}")
