"""The result of a reader."""

from pathlib import Path
from typing import NamedTuple

from ..lazy import LazyTensors


class Contents(NamedTuple):
    """The files that were opened, their tensors by name, and the text that is stored beside them."""

    files: tuple[Path, ...]
    tensors: LazyTensors
    metadata: dict[str, str]
