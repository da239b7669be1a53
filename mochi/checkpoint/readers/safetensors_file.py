"""One safetensors file."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import CheckpointError
from ..lazy import StoredTensor
from .contents import Contents

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


def open_one(path: Path) -> Contents:
    """Its tensors as they are stored. Raises CheckpointError on anything but a whole safetensors file."""
    try:
        file = safe_open(path, framework="pt", device="cpu")
        stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {_why_unreadable(path)} ({error})") from error
    tensors = {name: _stored(file, name, slices) for name, slices in stored.items()}
    return Contents((path,), dict(tensors), file.metadata() or {})


def _stored(file: Any, name: str, stored: Any) -> StoredTensor:
    def rows(start: int, stop: int) -> Tensor:
        return stored[start:stop]

    shape, dtype = tuple(stored.get_shape()), DTYPES.get(stored.get_dtype())
    return StoredTensor(shape, dtype, rows, partial(file.get_tensor, name))


def _why_unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return "cannot be opened"
    if start[:2] in (b"PK", b"\x80\x02") or path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return "a pickle, which could run code when opened; choose a safetensors file"
    if start.startswith(b"version "):
        return "a Git LFS pointer, not the weights themselves; download the file again with its content"
    return "not a whole safetensors file: it is cut short or corrupt; download it again"
