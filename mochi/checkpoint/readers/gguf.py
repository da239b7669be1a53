"""GGUF files, read by the library of those who define the format."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError, first_few
from ...quant import Ggml
from ...quant.ggml import FORMATS
from ..lazy import LazyTensor, LazyTensors, QuantTensor, ReshapedTensor, StoredTensor
from .contents import Contents

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Prefix of the field that has the shape of a tensor from before it was reshaped to whole blocks."""

MOST = 1 << 18
"""A limit for numbers of tensors, fields and items of a list. Only damaged files exceed it. Vocabularies are long."""

LONG = 16
"""A list of more items is passed over: it is a vocabulary, of which the library would make objects for seconds."""


def is_gguf(path: Path) -> bool:
    """By its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


class Opened(NamedTuple):
    """One file.

    Attributes:
        tensors: the library's, memory-mapped.
        fields: its metadata, without long lists.
    """

    path: Path
    tensors: list[Any]
    fields: dict[str, Any]


def open_one(path: Path) -> Opened:
    """Raises CheckpointError on a file that is cut short or corrupt."""
    from gguf import ReaderField

    if not hasattr(ReaderField, "contents"):
        raise CheckpointError(f"{path}: the library that reads GGUF files is too old; pip install -U 'gguf>=0.16'")
    try:
        reader = _reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # on damage the library raises any of Python's errors
        raise CheckpointError(
            f"{path}: not a whole GGUF file: it is cut short or corrupt ({error}); download it again"
        ) from error
    if reader.byte_order != "I":
        raise CheckpointError(f"{path}: a GGUF file for machines of the other byte order, which is not read here")
    return Opened(path, reader.tensors, fields)


def contents(files: Sequence[Opened]) -> Contents:
    """The tensors of one or several files, and metadata that is text; where they differ, the first file's.

    Raises CheckpointError on formats that are not read here, and on a tensor that is in two files.
    """
    fields: dict[str, Any] = {}
    for file in reversed(files):
        fields |= file.fields
    tensors: LazyTensors = {}
    for file in files:
        found = {tensor.name: _lazy(file.path, tensor, fields) for tensor in file.tensors}
        if twice := found.keys() & tensors.keys():
            raise CheckpointError(f"{file.path}: has tensors that another part has too ({first_few(twice)})")
        tensors |= found
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    return Contents(tuple(file.path for file in files), tensors, texts)


def _reader(path: Path) -> Any:
    from gguf import GGUFReader, GGUFValueType  # takes a while

    class Reader(GGUFReader):
        """The library's reader, with counts checked. By itself it believes any count and reads on past the end.

        Long lists have no contents.
        """

        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **kwargs: Any) -> Any:
            size = np.dtype(dtype).itemsize * int(count)
            if int(offset) + size > len(self.data):
                raise ValueError(f"{size} bytes at {offset} are beyond its end")
            return super()._get(int(offset), dtype, count, *args, **kwargs)

        def _build_fields(self, offs: int, count: int) -> int:
            return super()._build_fields(offs, _possible(count))

        def _build_tensor_info(self, offs: int, count: int) -> Any:
            return super()._build_tensor_info(offs, _possible(count))

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == GGUFValueType.ARRAY:
                kind, count = self._get(orig_offs, np.uint32)[0], self._get(orig_offs + 4, np.uint64)[0]
                if kind == GGUFValueType.ARRAY:
                    raise ValueError("a list of lists")
                if _possible(count) > LONG and self.byte_order == "I":
                    start = orig_offs + 12
                    return 12 + self._size_of_list(start, GGUFValueType(kind), count), [], [], []
            return super()._get_field_parts(orig_offs, raw_type)

        def _size_of_list(self, start: int, kind: Any, count: int) -> int:
            if kind != GGUFValueType.STRING:
                return self._get(start, self.gguf_scalar_to_np[kind], count).nbytes
            end, data = start, self.data.data
            for _ in range(count):
                end += 8 + struct.unpack_from("=Q", data, end)[0]
            return self._get(start, np.uint8, end - start).nbytes

    return Reader(path, "c")  # copy on write, since torch warns of memory that it cannot write to


def _possible(count: int) -> int:
    if count > MOST:
        raise ValueError(f"{count} items are more than there can be")
    return int(count)


def _lazy(path: Path, tensor: Any, fields: dict[str, Any]) -> LazyTensor:
    kind, data, shape = tensor.tensor_type.name, tensor.data, _shape(path, tensor, fields)
    if kind in PLAIN:
        return _stored(data, PLAIN[kind], shape)
    if kind not in FORMATS:
        readable = ", ".join([*PLAIN, *FORMATS])
        raise CheckpointError(f"{path}: {tensor.name} is of the type {kind}; those that can be read are {readable}")
    rows_are_blocks = len(shape) == 2 and shape[0] > 0 and shape[1] % FORMATS[kind].values == 0
    rows, columns = shape if rows_are_blocks else (1, math.prod(shape))
    source = _stored(data, torch.uint8, (rows, data.size // rows))
    quantised = QuantTensor((rows, columns), torch.bfloat16, Ggml(kind), source)
    return quantised if rows_are_blocks else ReshapedTensor(shape, quantised.dtype, quantised)


def _shape(path: Path, tensor: Any, fields: dict[str, Any]) -> tuple[int, ...]:
    """The shape in which the network has it."""
    stored = tuple(int(size) for size in reversed(tensor.shape))
    original = fields.get(ORIGINAL_SHAPE + tensor.name)
    if original is None:
        return stored
    shape = tuple(original) if isinstance(original, list) else (original,)
    if not all(isinstance(n, int) and n > 0 for n in shape) or math.prod(shape) != math.prod(stored):
        raise CheckpointError(f"{path}: {tensor.name} is {list(stored)}, which cannot have been {original} once")
    return shape


def _stored(data: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> StoredTensor:
    """The values that lie in memory-mapped bytes."""

    def whole() -> Tensor:
        return torch.from_numpy(data.reshape(-1).view(np.uint8)).view(dtype).view(shape)

    return StoredTensor(shape, dtype, lambda a, b: whole()[a:b], whole)
