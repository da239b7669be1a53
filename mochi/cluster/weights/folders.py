"""Folders of a machine: those in which a person keeps weights, and the user's cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "MOCHI_WEIGHTS"
"""The environment variable that names folders with weights on a machine, between them `:` (on Windows `;`)."""


def named_folders() -> tuple[Path, ...]:
    """The folders that VARIABLE names here, whether they are there or not."""
    names = os.environ.get(VARIABLE, "").split(os.pathsep)
    return tuple(Path(os.path.expanduser(name)) for name in names if name.strip())


def cache_folder() -> Path | None:
    """The pack's folder in the user's cache, which need not exist yet. None where the user has no home."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(chosen) if chosen else Path.home() / ".cache") / "mochi-parallel"
    except RuntimeError:
        return None


def received_folder() -> Path | None:
    """The folder for weights that another machine has sent. None where the user has no home."""
    cache = cache_folder()
    return None if cache is None else cache / "weights"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this context is open no other process is in it with the same path, which is made where it is not there.

    Raises OSError where it cannot be written. A file system without locks lets everyone in.
    """
    with path.open("ab") as file:
        with suppress(ImportError, OSError):
            import fcntl  # Windows has none

            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives the lock back
