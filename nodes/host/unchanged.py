"""What is remembered of files, as long as they are the same: prompts are checked whenever they are queued."""

from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ...mochi.errors import MochiError

REMEMBERED = 256
"""Checks whose result is remembered."""


class Version(NamedTuple):
    """A file or folder in one state: path, time of change in ns and bytes of each file that it is read from."""

    path: Path
    state: tuple[tuple[Path, int, int], ...]


def version_of(path: Path, files: Iterable[Path]) -> Version:
    """The present version of a path that is read from these files. Those that are not there do not count."""
    states = ((file, file.stat()) for file in sorted(files) if file.is_file())
    return Version(path, tuple((file, state.st_mtime_ns, state.st_size) for file, state in states))


def check(reads: Callable[..., object], *arguments: Hashable) -> None:
    """Call `reads` with these arguments, versions of files among them, once. Raises its MochiError each time."""
    error = _verdict(reads, *arguments)
    if error is not None:
        raise error.with_traceback(None)


@lru_cache(REMEMBERED)
def _verdict(reads: Callable[..., object], *arguments: Hashable) -> MochiError | None:
    try:
        reads(*arguments)
    except MochiError as error:
        return error
    return None
