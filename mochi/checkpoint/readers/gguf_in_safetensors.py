"""GGML blocks inside safetensors: `LAYER.Q4_0_qweight` (rows, bytes) in place of `LAYER.weight`, as in
mochi_preview_dit_GGUF_Q4_0_v2.safetensors.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from ...errors import CheckpointError
from ...quant import Ggml
from ...quant.ggml import FORMATS
from ..file import WeightFile
from ..lazy import LazyTensor, Packed

PACKED_NAME = re.compile(r"(.+)\.(\w+)_qweight")


def packed(file: WeightFile) -> WeightFile:
    """The same tensors under the names of plain weights. Raises CheckpointError on a format that is not known."""
    return replace(file, entries=dict(_renamed(file, name, entry) for name, entry in file.entries.items()))


def _renamed(file: WeightFile, name: str, entry: LazyTensor) -> tuple[str, LazyTensor]:
    found = PACKED_NAME.fullmatch(name)
    if found is None:
        return name, entry
    layer, kind = found.groups()
    if kind not in FORMATS:
        raise CheckpointError(
            f"{file.path}: {name} is of the type {kind}; those that can be read: {', '.join(FORMATS)}"
        )
    quant = Ggml(kind)
    try:
        if entry.dtype not in (torch.uint8, torch.int8) or len(entry.shape) != 2:
            raise ValueError(f"it is {list(entry.shape)} of {entry.dtype}")
        shape = (entry.shape[0], quant.columns(entry.shape[1]))
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {name} should be rows of bytes, but {error}") from error
    return f"{layer}.weight", Packed(entry, quant, shape)
