"""Files that are there as a whole or not at all: they get their name when they are whole."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from ..errors import MochiError
from ..video.paths import temporary_beside


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], what: str) -> None:
    """Write a safetensors file, see `write_whole`."""
    write_whole(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata)), what)


def write_whole(path: Path, data: bytes, what: str) -> None:
    """Write a file in place of an earlier one, which stays if this fails. Folders on the way are made.

    what: it is, for messages. Raises MochiError where it cannot be written.
    """
    part = temporary_beside(path)
    with clear_errors(path, what):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def clear_errors(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the system into one line for people."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room" if full else error.strerror or str(error)
        raise MochiError(
            f"{path}: {what} could not be written: {reason}. What was made before stays, and the next start goes on "
            "from there"
        ) from error
