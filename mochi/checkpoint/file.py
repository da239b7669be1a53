"""A weight file, opened without reading its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from .lazy import LazyTensor

LazyTensors = dict[str, LazyTensor]


@dataclass(frozen=True)
class WeightFile:
    """path: of the file, or of the folder that its parts lie in. entries: its tensors by name; metadata of it.
    parts: the files, where there are several."""

    path: Path
    entries: LazyTensors
    metadata: dict[str, str] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()


def open_weights(path: str | Path) -> WeightFile:
    """Open a safetensors file, a GGUF file, or a checkpoint in several safetensors files: by its folder, its index or
    any one of them. Packed weights are known as such; names are as stored.

    Raises CheckpointError on anything that is missing, cut short, corrupt or of another kind. Pickles are never opened:
    loading one runs the code that is in it.
    """
    from .readers import float8, gguf, gguf_in_safetensors, sharded  # each of which needs this module

    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if gguf.is_gguf(path):
        return gguf.open_gguf(path)
    file = sharded.open_safetensors(path)
    quants: tuple[Callable[[WeightFile], WeightFile], ...] = (gguf_in_safetensors.packed, float8.packed)
    for packed in quants:
        file = packed(file)
    return file


def first_few(names: Iterable[str], count: int = 4) -> str:
    """Names for a message: the first few, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more
