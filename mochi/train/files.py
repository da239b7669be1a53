"""Files that are whole or not there: written under another name first."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..errors import MochiError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], what: str) -> None:
    """Write a safetensors file in place of an earlier one, which stays if this fails.

    what: it is, for messages. Raises MochiError where the disk is full or the folder cannot be written.
    """
    with replacing(path, what) as part:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part, dict(metadata))


@contextlib.contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once it is whole. Raises like `save_tensors`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with clear_errors(path, what):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            os.replace(part, path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()


@contextlib.contextmanager
def clear_errors(path: Path, what: str) -> Iterator[None]:
    """Turn errors of the system into one line for people."""
    try:
        yield
    except MochiError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        is_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        # safetensors has errors of its own, which carry the system's words.
        if not is_full and not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        reason = "the disk is full" if is_full else getattr(error, "strerror", None) or str(error)
        raise MochiError(f"{path}: {what} could not be written: {reason}") from error
