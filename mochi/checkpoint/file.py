"""A weight file, opened without reading its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """One stored tensor: its shape and dtype are known, its values still on disk."""

    file: WeightFile
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None

    def read(self) -> Tensor:
        """The stored values, memory-mapped where the platform can."""
        return self.file.tensor(self.name)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of the values, `read()[start:stop]`; the others are not touched."""
        return self.file.rows(self.name, start, stop)


class WeightFile:
    """A safetensors file: `entries` by name, and `metadata`.

    Raises CheckpointError on a file that is missing, cut short, corrupt, or not safetensors. Pickles are
    never opened: loading one runs the code that is in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path}: there is no such file")
        try:
            self._file = safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: {_why_unreadable(self.path)} ({error})") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}
        self.entries = {name: self._entry(name) for name in self._file.keys()}  # noqa: SIM118 (not a dict)

    def _entry(self, name: str) -> Entry:
        stored = self._file.get_slice(name)
        return Entry(self, name, tuple(stored.get_shape()), DTYPES.get(stored.get_dtype()))

    def tensor(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self._file.get_slice(name)[start:stop]


def _why_unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return "cannot be opened"
    if start[:4] == b"GGUF":
        return "a GGUF file, which this loader does not read; choose a safetensors file"
    if start[:2] in (b"PK", b"\x80\x02") or path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return "a pickle, which could run code when opened; choose a safetensors file"
    if start.startswith(b"version "):
        return "a Git LFS pointer, not the weights themselves; download the file again with its content"
    return "not a whole safetensors file: it is cut short or corrupt; download it again"


def first_few(names: Iterable[str], count: int = 4) -> str:
    """Names for a message: the first few, and how many more."""
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
