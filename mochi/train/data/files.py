"""Files of the cache, which may be gone or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import MochiError


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
