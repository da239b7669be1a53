"""What ComfyUI's quantiser says of each layer: in the file's metadata (`_quantization_metadata`, JSON), or in a tensor
`comfy_quant` beside the weight (JSON too). Source: QUANTIZATION.md of ComfyUI.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError
from ..hosted import ADVICE, HostTensor
from ..lazy import LazyTensors

FORMAT = "comfy_quant"
READ_HERE = ("float8_e4m3fn", "float8_e5m2")
PACKED = ("nvfp4", "convrot_w4a4", "asym_w4a8_int8")
"""Formats with two values in a byte."""


def hosted(path: Path, tensors: LazyTensors, metadata: Mapping[str, str]) -> LazyTensors:
    """The tensors, in which each weight that only ComfyUI's layers can read has become one HostTensor.

    Raises CheckpointError on a description that cannot be read, or of weights that are not there.
    """
    found = dict(tensors)
    for layer, conf in _described(path, tensors, metadata).items():
        found.pop(f"{layer}.{FORMAT}", None)
        if conf["format"] in READ_HERE:
            continue
        weight = found.get(f"{layer}.weight")
        if weight is None or len(weight.shape) != 2:
            raise CheckpointError(f"{path}: says that {layer} is in {conf['format']}, but has no such matrix; {ADVICE}")
        found[f"{layer}.weight"] = _weight(path, layer, conf, found)
    return found


def _weight(path: Path, layer: str, conf: Mapping[str, Any], tensors: LazyTensors) -> HostTensor:
    """One weight, with the tensors that belong to it, which are taken out of the others."""
    kind, names = conf["format"], ("weight", "input_scale", "pre_quant_scale")
    own = [leaf for name in tensors if name.startswith(f"{layer}.") and "." not in (leaf := name[len(layer) + 1 :])]
    stored = {n: tensors.pop(f"{layer}.{n}") for n in own if n in names or n.startswith("weight_")}
    rows, columns = stored["weight"].shape
    bias = tensors.get(f"{layer}.bias")
    if bias is not None and bias.shape:
        rows = min(rows, bias.shape[0])  # they can be filled up to whole blocks
    shape = (rows, columns * (2 if kind in PACKED else 1))
    return HostTensor(shape, torch.bfloat16, f"{path}: {layer}.weight", kind, conf, stored)


def _described(path: Path, tensors: LazyTensors, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What is said of each layer; `format` is always there."""
    found = {}
    try:
        found |= json.loads(metadata.get("_quantization_metadata", "{}")).get("layers", {})
        for name, tensor in tensors.items():
            layer, _, leaf = name.rpartition(".")
            if leaf == FORMAT:
                if tensor.dtype != torch.uint8:
                    raise TypeError(f"{name} is no text")
                found[layer] = json.loads(tensor.read().numpy().tobytes())
        if wrong := [layer for layer, conf in found.items() if not isinstance(conf["format"], str)]:
            raise TypeError(f"{wrong[0]} is in no format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: what it says of its quantisation cannot be read ({error!r})") from error
    return found
