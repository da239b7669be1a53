"""GGML blocks inside safetensors: `LAYER.Q4_0_qweight` (rows, bytes) in place of `LAYER.weight`, as in
mochi_preview_dit_GGUF_Q4_0_v2.safetensors.
"""

import re
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...quant import Ggml
from ...quant.ggml import FORMATS
from ..lazy import LazyTensor, LazyTensors, QuantTensor

QUANT_NAME = re.compile(r"(.+)\.(\w+)_qweight")


def quantised(path: Path, tensors: LazyTensors) -> LazyTensors:
    """The tensors under the names of plain weights. Raises CheckpointError on a format that is not known."""
    return dict(_renamed(path, name, tensor) for name, tensor in tensors.items())


def _renamed(path: Path, name: str, tensor: LazyTensor) -> tuple[str, LazyTensor]:
    found = QUANT_NAME.fullmatch(name)
    if found is None:
        return name, tensor
    layer, kind = found.groups()
    if kind not in FORMATS:
        raise CheckpointError(f"{path}: {name} is of the type {kind}; those that can be read: {', '.join(FORMATS)}")
    quant = Ggml(kind)
    try:
        if tensor.dtype not in (torch.uint8, torch.int8) or len(tensor.shape) != 2:
            raise ValueError(f"it is {list(tensor.shape)} of {tensor.dtype}")
        shape = (tensor.shape[0], quant.columns(tensor.shape[1]))
    except ValueError as error:
        raise CheckpointError(f"{path}: {name} should be rows of bytes, but {error}") from error
    return f"{layer}.weight", QuantTensor(shape, torch.bfloat16, quant, tensor)
