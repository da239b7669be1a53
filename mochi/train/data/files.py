"""Tensors in files that are there as a whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...errors import MochiError
from ...video.paths import temporary_beside


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raises MochiError where the system cannot write it; then there is no file."""
    write_whole(path, save({name: t.cpu().contiguous() for name, t in tensors.items()}, dict(metadata)))


def write_whole(path: Path, data: bytes) -> None:
    """See `write_tensors`."""
    part = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; make room" if full else error.strerror
        raise MochiError(
            f"{path.parent}: {path.name} could not be written: {reason}. What was made before stays, and the next "
            "start goes on from there"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def is_whole(path: Path, metadata: Mapping[str, str]) -> bool:
    """Whether there is such a file with all its bytes, made for these metadata. Reads no values."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() == metadata
    except (OSError, SafetensorError):
        return False


def read_tensor(path: Path, name: str) -> Tensor:
    """Raises MochiError where it is not there, as when somebody has emptied the cache in the meantime."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name).clone()  # else it would hold on to the file, whatever becomes of that
    except (OSError, SafetensorError) as error:
        raise MochiError(
            f"{path}: gone, or damaged, since the clips were prepared ({error}). Start again: it will be made anew"
        ) from error
