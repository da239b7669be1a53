"""The format and the final path of a video, and whether it can be written there."""

import tempfile
from pathlib import Path

from ..errors import MochiError

FORMATS = ("mp4", "webm", "gif", "png")


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


def check_writable(path: str | Path, format: str | None = None) -> None:
    """Raise MochiError now if a video could not be written to `path` later.

    Folders on the way need not exist yet. A file that is there will be replaced; a folder of frames
    that is there is never touched.
    """
    format = format or format_of(path)
    target = target_path(path, format)
    if target.is_dir() and (format != "png" or any(target.iterdir())):
        raise MochiError(f"{target}: there is already a folder of that name; choose another name")
    if format == "png" and target.is_file():
        raise MochiError(f"{target}: there is already a file of that name; choose another name")
    folder = next(p for p in target.absolute().parents if p.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MochiError(f"{target}: cannot be written, because {folder} cannot ({error.strerror})") from error
