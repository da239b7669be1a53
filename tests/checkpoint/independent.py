"""What is in a weight file, read by other libraries and unpacked by their formulas: nothing here is this project's."""

import re
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file

from tests.checkpoint.toys import Weights

SCALE_NAMES = ("scale_weight", "weight_scale")
OF_QUANTISATION = (*SCALE_NAMES, "scale_input", "input_scale", "comfy_quant", "scaled_fp8")


def values(path: Path) -> Weights:
    """Tensors by their plain names; those that are unpacked in float32, others in the dtype that they are stored in."""
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    return _gguf(path) if is_gguf else _safetensors(path)


def _gguf(path: Path) -> Weights:
    reader = GGUFReader(path)
    found = {}
    for tensor in reader.tensors:
        original = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
        plain = np.array(quants.dequantize(tensor.data, tensor.tensor_type))
        shape = original.contents() if original else tuple(int(n) for n in reversed(tensor.shape))
        found[tensor.name] = torch.from_numpy(plain).reshape(shape)
    return found


def _safetensors(path: Path) -> Weights:
    stored = load_file(path)
    found = {}
    for name, tensor in stored.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in OF_QUANTISATION:
            continue
        if packed := re.fullmatch(r"(\w+)_qweight", leaf):
            kind = GGMLQuantizationType[packed[1]]
            found[f"{layer}.weight"] = torch.from_numpy(quants.dequantize(tensor.view(torch.uint8).numpy(), kind))
            continue
        scales = [stored[f"{layer}.{scale}"] for scale in SCALE_NAMES if f"{layer}.{scale}" in stored]
        found[name] = tensor.to(torch.float32) * scales[0].to(torch.float32) if leaf == "weight" and scales else tensor
    return found
