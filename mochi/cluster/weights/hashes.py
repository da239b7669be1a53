"""SHA-256 of whole files. Hashing 20 GB takes 15 seconds and more, so it is remembered from one run to the next."""

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from .folders import cache_folder, locked

BLOCK = 8 << 20
"""Bytes that are read at a time."""

SETTLED = 2.0
"""Seconds. A file that was changed so shortly before may be changed again within the same tick of its file system's
clock, which no time stamp would show. Its hash is not remembered."""

MOST = 2000
"""Files that are remembered. The oldest are forgotten."""

Report = Callable[[str, int, int], None]
"""Hears how far a file has been read: its path, the bytes so far, its size."""


class Hashes:
    """Hashes of files, remembered in `hashes.json`.

    A file is known by its real path, size, times and number, so that any change of it is noticed. Machines that share
    a home share the memory. It may be damaged, gone or not writable: then files are hashed again.
    """

    def __init__(self, folder: Path | None = None):
        """folder: of the memory; by default the user's cache."""
        self._folder = folder or cache_folder()

    def sha256(self, path: str | Path, report: Report | None = None) -> str:
        """The hash of a file, 64 hexadecimal digits. `report` hears nothing of a file whose hash is known.

        Raises OSError where the file cannot be read, or changes while it is.
        """
        started = time.time()
        with FileIO(str(path)) as file:
            status = os.fstat(file.fileno())
            key = _key(path, status)
            if known := self._known().get(key):
                return known
            found = _hash(file, str(path), status.st_size, report)
            if _key(path, os.fstat(file.fileno())) != key:
                raise OSError(errno.EBUSY, "it changes while it is read; is it still being written?")
        if started - max(status.st_mtime, status.st_ctime) > SETTLED:
            self._remember(key, found)
        return found

    def remember(self, path: Path, sha256: str) -> None:
        """Remember the hash of a file that was just written as a whole, and that nobody else writes."""
        with suppress(OSError):
            self._remember(_key(path, path.stat()), sha256)

    def _known(self) -> dict[str, str]:
        """All that is remembered, the oldest first."""
        if self._folder is None:
            return {}
        try:
            stored = json.loads((self._folder / "hashes.json").read_text(encoding="utf-8"))
            return {key: value for key, value in stored.items() if re.fullmatch("[0-9a-f]{64}", value)}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _remember(self, key: str, value: str) -> None:
        """A folder that cannot be written to remembers nothing."""
        if self._folder is None:
            return
        part = self._folder / f".{uuid.uuid4().hex[:12]}.part"
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._folder / "hashes.lock"):
                known = self._known()
                known.pop(key, None)
                known[key] = value
                try:
                    part.write_text(json.dumps(dict(list(known.items())[-MOST:]), indent=0), encoding="utf-8")
                    os.replace(part, self._folder / "hashes.json")
                finally:
                    part.unlink(missing_ok=True)


def _key(path: str | Path, status: os.stat_result) -> str:
    """What a file is known by. `st_ctime_ns` changes even where a program sets the time of a changed file back."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{os.path.realpath(path)} {status.st_size} {times} {status.st_ino}"


def _hash(file: FileIO, path: str, size: int, report: Report | None) -> str:
    digest, block, done = hashlib.sha256(), memoryview(bytearray(BLOCK)), 0
    while done <= size and (count := file.readinto(block)):  # one that grows as fast as it is read would have no end
        digest.update(block[:count])
        done += count
        if report is not None:
            report(path, done, size)
    return digest.hexdigest()
