"""What was computed of clips and captions, kept from one start to the next.

A file is named by the digest of its key: all that its values depend on. The key itself is in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from ...errors import MochiError
from ...video.paths import check_path, temporary_beside
from ..files import write_whole
from .files import is_whole
from .items import Item, Unusable
from .reading import Footage, look

NAME = ".mochi-cache"

WHAT = "a file of the cache"
"""For messages."""

VERSION = "1"
"""Of the keys, and of what is computed; another one makes everything anew."""

BLOCK = 8 << 20
"""Bytes that are read at a time."""


@dataclass(frozen=True)
class Source:
    """A clip or an image: the SHA-256 of its file, and what was seen in it."""

    sha256: str
    footage: Footage


@dataclass(frozen=True)
class Entry:
    """A file of the cache, which may not be there yet.

    Attributes:
        path: its place.
        key: all that its values depend on, in words.
    """

    path: Path
    key: Mapping[str, str]

    @property
    def exists(self) -> bool:
        """Whether it is there, whole. A file that was cut is made anew."""
        return is_whole(self.path, self.key)

    @property
    def refusal(self) -> Path:
        """The file that says why there is no such entry."""
        return self.path.with_suffix(".txt")

    def refuse(self, reason: str) -> None:
        write_whole(self.refusal, reason.encode(), WHAT)

    @property
    def reason(self) -> str | None:
        """Why it is not there; None where nobody tried."""
        try:
            return self.refusal.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None


class Cache:
    """A folder of what was computed. Raises MochiError where it cannot be written to."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            check_path(folder / "x.safetensors", temporary_beside(folder / "x.safetensors"))
        except MochiError as error:
            raise MochiError(f"The cache of what is trained on: {error}, or another folder for the cache") from error

    @classmethod
    def beside(cls, data: Path) -> Cache:
        """In a folder of clips, or beside a list of them."""
        return cls((data if data.is_dir() else data.parent) / NAME)

    def entry(self, kind: str, **key: str) -> Entry:
        """kind: the folder that such entries are in."""
        named = {"version": VERSION, **key}
        return Entry(self.folder / kind / f"{digest(named)}.safetensors", named)

    def source(self, item: Item) -> Source:
        """The file of an item, read only if this was not done before. Raises Unusable where it cannot be."""
        record = self._record(item)
        try:
            known = json.loads(record.read_bytes())
            return Source(known["sha256"], _footage(known["footage"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        source = Source(_sha256(item), look(item))
        write_whole(record, json.dumps(asdict(source), default=str, indent=1).encode(), WHAT)
        return source

    def _record(self, item: Item) -> Path:
        """Where a file is remembered. Any change gives it another time."""
        try:
            status = item.path.stat()
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from error
        known_by = {
            "path": str(item.path.absolute()),
            "size": status.st_size,
            "time": status.st_mtime_ns,
            "version": VERSION,
        }
        return self.folder / "sources" / f"{digest(known_by)}.json"


def digest(value: object) -> str:
    """A name for anything that JSON can hold: 40 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:40]


def _footage(values: dict) -> Footage:
    width, height, pictures = (int(values[name]) for name in ("width", "height", "pictures"))
    start, last, seconds, pixel = (Fraction(values[name]) for name in ("start", "last", "seconds", "pixel"))
    return Footage(width, height, pictures, start, last, seconds, pixel)


def _sha256(item: Item) -> str:
    found, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    try:
        with item.path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                found.update(block[:count])
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror}") from error
    return found.hexdigest()
