"""Files that go to another machine in pieces, and get their names there once they are whole."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from ...errors import MochiError
from ...hub.catalog import readable
from .folders import locked, received_folder
from .hashes import Hashes
from .wanted import WantedFile

PIECE = 64 << 20
"""Bytes of a piece."""

LOCK = ".lock"
"""The file that processes lock in which files begin and end. Or one would take another's new file for an abandoned one.
"""


def pieces(path: str | Path, nbytes: int = PIECE) -> Iterator[bytes]:
    """A file in pieces of so many bytes, the last one of what is left. Raises MochiError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(nbytes):
                yield piece
    except OSError as error:
        raise MochiError(f"{path}: cannot be read to send it: {error.strerror}") from error


def check_room(folder: Path | None, wanted: Sequence[WantedFile]) -> None:
    """Raise MochiError unless the disk of a folder has room for all files. None is the folder of sent weights.

    What killed processes left there is removed.
    """
    folder = _folder(folder)
    if folder.is_dir():
        with suppress(OSError), locked(folder / LOCK):
            _remove_abandoned(folder)
    _check_disk(folder, wanted)


class Receiver:
    """A file that arrives in pieces. To be closed, as by `with`: one that is not whole then is removed.

    Attributes:
        path: where it is once it is whole, `FOLDER/SHA256/NAME`.
        done: whether it is there, which can be so from the start.
    """

    def __init__(self, folder: Path | None, wanted: WantedFile, hashes: Hashes | None = None):
        """folder: None is that of sent weights, in the user's cache. What a killed process left there is removed.

        Raises MochiError where there is no room for the file, or the folder cannot be written to.
        """
        self._folder, self._wanted, self._hashes = _folder(folder).absolute(), wanted, hashes or Hashes()
        self.path = self._folder / wanted.sha256 / Path(wanted.path).name
        self._digest, self._arrived = hashlib.sha256(), 0
        self._part = self.path.with_name(f".{uuid.uuid4().hex[:12]}.part")
        self._file: FileIO | None = None
        self.done = self._is_there()
        if not self.done:
            with self._in_words():
                self._folder.mkdir(parents=True, exist_ok=True)
                with locked(self._folder / LOCK):
                    _remove_abandoned(self._folder)
                    _check_disk(self._folder, [wanted])
                    self.path.parent.mkdir(exist_ok=True)
                    self._file = FileIO(str(self._part), "xb")
                    _hold(self._file)

    def take(self, piece: bytes | memoryview) -> None:
        """Write the next piece. Raises MochiError where the disk is full, or too much arrives; then the file is gone.

        Once it is done, what arrives is let go.
        """
        if self.done:
            return
        with self._in_words():
            file, rest = self._open(), memoryview(piece).cast("B")
            self._arrived += len(rest)
            if self._arrived > self._wanted.nbytes:
                raise self._wrong(f"more than its {self._wanted.nbytes:,} bytes arrived")
            self._digest.update(rest)
            while rest:  # a raw file may write less than it is given
                rest = rest[file.write(rest) :]

    def finish(self) -> Path:
        """The path of the whole file. Raises MochiError where something else arrived; then nothing is left of it."""
        if self.done:
            return self.path
        with self._in_words():
            if self._arrived != self._wanted.nbytes:
                raise self._wrong(f"{self._arrived:,} of its {self._wanted.nbytes:,} bytes arrived")
            if self._digest.hexdigest() != self._wanted.sha256:
                raise self._wrong("what arrived has another SHA-256; was it changed meanwhile?")
            os.fsync(self._open().fileno())
            os.replace(self._part, self.path)
        self.done = True
        self._hashes.remember(self.path, self._wanted.sha256)
        self.close()
        return self.path

    def close(self) -> None:
        """Remove what has arrived, unless it is whole."""
        if self._file is None:
            return
        with suppress(OSError), locked(self._folder / LOCK):
            _remove(self._part)
        self._file.close()
        self._file = None

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> FileIO:
        if self._file is None:
            raise ValueError(f"{self.path}: was given up")
        return self._file

    def _is_there(self) -> bool:
        with suppress(OSError):
            return (
                self.path.stat().st_size == self._wanted.nbytes
                and self._hashes.sha256(self.path) == self._wanted.sha256
            )
        return False

    def _wrong(self, what: str) -> MochiError:
        return MochiError(f"{self._wanted.path}: was not received, {what}; nothing of it was kept. Start again")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Whatever goes wrong removes the file; errors of the disk are put in words."""
        try:
            yield
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError):
                raise
            size = readable(self._wanted.nbytes)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MochiError(
                    f"{self._folder}: the disk is full, {self._wanted.path} needs {size}; make room on it"
                ) from error
            raise MochiError(f"{self._folder}: weights cannot be written there: {error.strerror}") from error


def _folder(folder: Path | None) -> Path:
    chosen = folder or received_folder()
    if chosen is None:
        raise MochiError("there is no folder for weights that are sent: set XDG_CACHE_HOME on that machine")
    return chosen


def _check_disk(folder: Path, wanted: Sequence[WantedFile]) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    needed, free = sum(file.nbytes for file in wanted), shutil.disk_usage(there).free
    if needed > free:
        raise MochiError(
            f"{folder}: {readable(needed)} of weights are to be sent there, but the disk has {readable(free)} free; "
            "make room on it"
        )


def _hold(file: FileIO) -> None:
    """Show others that a file is being written, for as long as this process has it open."""
    with suppress(ImportError, OSError):  # Windows, and file systems without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(folder: Path) -> None:
    """Remove files of processes that were killed while they wrote: nobody holds them any more."""
    with suppress(ImportError):
        import fcntl

        for part in folder.glob("*/.*.part"):
            with suppress(OSError), part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(part)


def _remove(part: Path) -> None:
    """Remove a part, if it is there, and its folder if that was for it alone."""
    part.unlink(missing_ok=True)
    with suppress(OSError):  # it has other files
        part.parent.rmdir()
