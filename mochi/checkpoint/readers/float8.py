"""8-bit floating point in safetensors: a plain cast, or with scales as ComfyUI writes them.

ComfyUI's older files have a tensor `scaled_fp8` as a marker, and beside a layer's `weight` its `scale_weight` and
perhaps `scale_input`. Newer ones have `weight_scale` and `input_scale`, and say for each layer which format it is
in: in the file's metadata (`_quantization_metadata`, JSON), or in a tensor `comfy_quant` beside the weight (JSON too).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import torch

from ...errors import CheckpointError
from ...quant import FLOAT8, Float8
from ..file import LazyTensors, WeightFile
from ..lazy import LazyTensor, Packed

MARKER = "scaled_fp8"
WEIGHT_SCALES, INPUT_SCALES = ("weight_scale", "scale_weight"), ("input_scale", "scale_input")
FORMAT, FORMATS = "comfy_quant", ("float8_e4m3fn", "float8_e5m2")
BESIDE = (*WEIGHT_SCALES, *INPUT_SCALES, FORMAT)


def packed(file: WeightFile) -> WeightFile:
    """Weights with their scales; what belongs to them is gone. Raises CheckpointError on formats that are not known."""
    _check_formats(file)
    weights = {}
    for name, entry in file.entries.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == MARKER or (leaf in BESIDE and f"{layer}.weight" in file.entries):
            continue
        weights[name] = _weight(file, layer, entry) if leaf == "weight" else entry
    return replace(file, entries=weights)


def _weight(file: WeightFile, layer: str, entry: LazyTensor) -> LazyTensor:
    scale, input_scale = (_scale(file, layer, names) for names in (WEIGHT_SCALES, INPUT_SCALES))
    scale = None if scale == 1 else scale
    if entry.dtype in FLOAT8 and entry.shape:
        return Packed(entry, Float8(entry.dtype, scale, input_scale), entry.shape)
    if scale is not None:
        raise CheckpointError(f"{file.path}: {layer}.weight has a scale, but is in {entry.dtype}")
    return entry


def _scale(file: WeightFile, layer: str, names: tuple[str, ...]) -> float | None:
    """The number beside a weight under one of the names, if there is one."""
    entries: LazyTensors = file.entries
    name = next((f"{layer}.{name}" for name in names if f"{layer}.{name}" in entries), None)
    if name is None:
        return None
    if math.prod(entries[name].shape) != 1 or entries[name].dtype is None:
        raise CheckpointError(f"{file.path}: {name} is {list(entries[name].shape)}, but must be one number")
    scale = entries[name].read().float().item()
    if not math.isfinite(scale):
        raise CheckpointError(f"{file.path}: {name} is {scale}, which is not a scale; download the file again")
    return scale


def _check_formats(file: WeightFile) -> None:
    """Raise CheckpointError where a layer says that it is in another format. The dtype tells those that are known."""
    names = {}
    try:
        for layer, described in json.loads(file.metadata.get("_quantization_metadata", "{}")).get("layers", {}).items():
            names[layer] = described["format"]
        for name, entry in file.entries.items():
            layer, _, leaf = name.rpartition(".")
            if leaf == FORMAT:
                if entry.dtype != torch.uint8:
                    raise TypeError(f"{name} is no text")
                names[layer] = json.loads(entry.read().numpy().tobytes())["format"]
        unknown = {layer: name for layer, name in names.items() if name not in FORMATS}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file.path}: what it says of its quantisation cannot be read ({error!r})") from error
    if unknown:
        layer, name = next(iter(unknown.items()))
        raise CheckpointError(
            f"{file.path}: {layer} is in the format {name}; those that can be read are {', '.join(FORMATS)}"
        )
