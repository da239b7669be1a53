"""8-bit floating point in safetensors: a plain cast, or with scales as ComfyUI writes them.

ComfyUI's older files have a tensor `scaled_fp8` as a marker, and beside a layer's `weight` its `scale_weight` and
perhaps `scale_input`. Newer ones have `weight_scale` and `input_scale`, and say which format a layer is in; see
comfy_quant.py.
"""

import math
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...quant import FLOAT8, Float8
from ..hosted import ADVICE
from ..lazy import LazyTensor, LazyTensors, QuantTensor

MARKER = "scaled_fp8"
WEIGHT_SCALES, INPUT_SCALES = ("weight_scale", "scale_weight"), ("input_scale", "scale_input")
BESIDE = (*WEIGHT_SCALES, *INPUT_SCALES)


def quantised(path: Path, tensors: LazyTensors) -> LazyTensors:
    """The tensors, in which scales and markers have become part of the weights' formats.

    Raises CheckpointError on scales that cannot be.
    """
    found = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == MARKER or (leaf in BESIDE and f"{layer}.weight" in tensors):
            continue
        found[name] = _weight(path, tensors, layer, tensor) if leaf == "weight" else tensor
    return found


def _weight(path: Path, tensors: LazyTensors, layer: str, tensor: LazyTensor) -> LazyTensor:
    scale, input_scale = (_scale(path, tensors, layer, names) for names in (WEIGHT_SCALES, INPUT_SCALES))
    scale = None if scale == 1 else scale
    if tensor.dtype in FLOAT8 and tensor.shape:
        return QuantTensor(tensor.shape, torch.bfloat16, Float8(tensor.dtype, scale, input_scale), tensor)
    if scale is not None:
        raise CheckpointError(
            f"{path}: {layer}.weight has a scale, but is in {tensor.dtype}, which is not read here; {ADVICE}"
        )
    return tensor


def _scale(path: Path, tensors: LazyTensors, layer: str, names: tuple[str, ...]) -> float | None:
    """The number beside a weight under one of the names, if there is one."""
    name = next((f"{layer}.{name}" for name in names if f"{layer}.{name}" in tensors), None)
    if name is None:
        return None
    if math.prod(tensors[name].shape) != 1 or tensors[name].dtype is None:
        raise CheckpointError(f"{path}: {name} is {list(tensors[name].shape)}, but must be one number")
    scale = tensors[name].read().float().item()
    if not math.isfinite(scale):
        raise CheckpointError(f"{path}: {name} is {scale}, which is not a scale; download the file again")
    return scale
