"""What a person gives: clips and images, each with a caption."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import MochiError, first_few
from ...text.characters import check_text

CLIPS = (".mp4", ".mov", ".webm", ".gif", ".mkv")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")

EXPECTED = (
    f"Expected are clips ({', '.join(CLIPS)}) and images ({', '.join(IMAGES)}), each beside a text file of the same "
    "name with its caption (clip.mp4, clip.txt); or a .csv with the columns path and caption, or a .jsonl with "
    '{"path": ..., "caption": ...} in each line'
)


class Unusable(MochiError):
    """A clip or an image that cannot be trained on. The message is the reason, without the name."""


@dataclass(frozen=True)
class Item:
    """A clip or an image.

    Attributes:
        name: the path as the person knows it, relative to the folder or list that it was found in.
        path: where it is.
        caption: what it shows, without blanks around it.
    """

    name: str
    path: Path
    caption: str

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in IMAGES


NO_KIND = "neither a clip nor an image of a known kind"

Skipped = tuple[str, str]
"""The name of something that is not trained on, and the reason."""


def find_items(data: Path) -> tuple[list[Item], list[Skipped]]:
    """The clips and images of a folder, or of a .csv or .jsonl file, sorted by name; and what is skipped.

    Raises MochiError where nothing is left, saying what was found.
    """
    if data.is_dir():
        found = _in_folder(data)
    elif not data.exists():
        raise MochiError(f"{data}: there is no such folder or file. {EXPECTED}")
    elif data.suffix.lower() in READERS:
        found = _in_list(data)
    else:
        raise MochiError(f"{data}: neither a folder nor a .csv or .jsonl file. {EXPECTED}")
    items, skipped = [], []
    for name, path, caption in sorted(found, key=lambda entry: entry[0]):
        try:
            items.append(Item(name, path, _checked(path, caption)))
        except Unusable as error:
            skipped.append((name, str(error)))
    if not items:
        raise MochiError(f"{data}: there is nothing in it to train on{reasons(skipped) or ': it is empty'}. {EXPECTED}")
    return items, skipped


def reasons(skipped: list[Skipped]) -> str:
    """The names of what was skipped, by reason, to end a sentence; empty where nothing was."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason, []).append(name)
    lines = [f"{first_few(names)}: {reason}" for reason, names in list(by_reason.items())[:4]]
    more = len(by_reason) - len(lines)
    return "".join(f"; {line}" for line in lines) + (f"; and {more} more reasons" if more else "")


Found = tuple[str, Path, "str | Unusable"]
"""A name, a path, and the caption, or why there is none."""


def _in_folder(folder: Path) -> Iterator[Found]:
    """Each file of a folder but the hidden ones, and the text files that captions are read of."""
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise MochiError(f"{folder}: cannot be read: {error.strerror}") from error
    stems = {path.stem for path in paths if path.suffix.lower() in CLIPS + IMAGES}
    for path in paths:
        if path.suffix.lower() != ".txt":
            yield path.name, path, _caption_of(path)
        elif path.stem not in stems:
            yield path.name, path, Unusable("a caption without a clip or image")


def _caption_of(path: Path) -> str | Unusable:
    text = path.with_suffix(".txt")
    try:
        return _text(text)
    except FileNotFoundError:
        return Unusable(f"no caption ({text.name})" if path.suffix.lower() in CLIPS + IMAGES else NO_KIND)
    except OSError as error:
        return Unusable(f"{text.name} cannot be read: {error.strerror}")


def _in_list(file: Path) -> Iterator[Found]:
    """Each row of a list. Paths are relative to the file."""
    try:
        text = _text(file)
    except OSError as error:
        raise MochiError(f"{file}: cannot be read: {error.strerror}") from error
    for line, row in READERS[file.suffix.lower()](file, text):
        path, caption = row.get("path"), row.get("caption")
        if not isinstance(path, str) or not path.strip():
            raise MochiError(f"{file}, line {line}: it has no path. {EXPECTED}")
        if caption is not None and not isinstance(caption, str):
            raise MochiError(f"{file}, line {line}: the caption is {caption!r}, but must be a text")
        yield path.strip(), file.parent / path.strip(), Unusable("no caption") if caption is None else caption


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = rows.fieldnames or []
        if not {"path", "caption"} <= set(columns):
            raise MochiError(f"{file}: its first row has the columns {', '.join(columns) or 'none'}. {EXPECTED}")
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        where = f"{file}, after line {rows.line_num}"
        raise MochiError(f"{where}: not a table ({error}); a quote may not be closed") from error


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MochiError(f"{file}, line {number}: not JSON ({error}). {EXPECTED}") from error
        if not isinstance(row, dict):
            raise MochiError(f"{file}, line {number}: {line[:40]} is no object. {EXPECTED}")
        yield number, row


READERS = {".csv": _csv_rows, ".jsonl": _json_rows}


def _text(file: Path) -> str:
    """Raises OSError, also on what is no text."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "it is not text in UTF-8") from error


def _checked(path: Path, caption: str | Unusable) -> str:
    """The caption of a file, as it is trained with. Raises Unusable."""
    if isinstance(caption, Unusable):
        raise caption
    if path.suffix.lower() not in CLIPS + IMAGES:
        raise Unusable(NO_KIND)
    if not path.is_file():
        raise Unusable("there is no such file")
    if not caption.strip():
        raise Unusable("its caption is empty")
    try:
        check_text("its caption", caption)
    except MochiError as error:
        raise Unusable(str(error)) from error
    return caption.strip()
