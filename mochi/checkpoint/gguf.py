"""GGUF files, read by the library of those who define the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..packing import Ggml
from ..packing.ggml import FORMATS
from .entry import Entry, Packed, Stored
from .file import WeightFile

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # where a tensor was reshaped to have whole blocks


def is_gguf(path: Path) -> bool:
    """By its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def open_gguf(path: Path) -> WeightFile:
    """Its tensors, memory-mapped; metadata that is text. Raises CheckpointError on a file that is cut short or corrupt,
    and on formats that are not read here."""
    try:
        reader = _reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if _is_small(field)}
    except Exception as error:  # the library meets damage with whatever Python raises
        raise CheckpointError(
            f"{path}: not a whole GGUF file: it is cut short or corrupt ({error}); download it again"
        ) from error
    entries = {tensor.name: _entry(path, tensor, fields) for tensor in reader.tensors}
    return WeightFile(path, entries, {name: value for name, value in fields.items() if isinstance(value, str)})


def _reader(path: Path) -> Any:
    from gguf import GGUFReader  # takes a while

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:
            # The library reads on past the end, for as long as a count that is wrong tells it to.
            size = np.dtype(dtype).itemsize * int(count)
            if int(offset) + size > len(self.data):
                raise ValueError(f"{size} bytes at {offset} are beyond its end")
            return super()._get(int(offset), dtype, count, *args, **kwargs)

    return Reader(path)


def _is_small(field: Any) -> bool:
    return len(field.data) <= 16  # not a vocabulary


def _entry(path: Path, tensor: Any, fields: dict[str, Any]) -> Entry:
    kind, data = tensor.tensor_type.name, tensor.data
    shape = tuple(int(size) for size in reversed(tensor.shape))
    original = fields.get(ORIGINAL_SHAPE + tensor.name)
    if isinstance(original, list) and np.prod(original) == np.prod(shape):
        shape = tuple(int(size) for size in original)
    if kind in PLAIN:
        return Stored(
            shape, PLAIN[kind], lambda a, b: _plain(data, kind, shape)[a:b], lambda: _plain(data, kind, shape)
        )
    if kind not in FORMATS:
        readable = ", ".join([*PLAIN, *FORMATS])
        raise CheckpointError(f"{path}: {tensor.name} is of the type {kind}; those that can be read are {readable}")
    rows = (shape[0], data.size // shape[0]) if shape and shape[0] else (0, 0)
    source = Stored(rows, torch.uint8, lambda a, b: _bytes(data, rows)[a:b], lambda: _bytes(data, rows))
    return Packed(source, Ggml(kind), shape)


def _bytes(data: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(data.view(np.uint8).reshape(shape))


def _plain(data: np.ndarray, kind: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(data.reshape(-1).view(np.uint8)).view(PLAIN[kind]).view(shape)
