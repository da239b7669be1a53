"""Weights in every format that people have, by a writer that is not this project's wherever there is one."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFWriter, quants
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoint.toys import Weights, save

Writer = Callable[[Path, Weights], Path]
"""Stores weights, by their published names, in a new file below a folder."""

WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
# The library can only read these. Where in their blocks the float16 scales are, all else may be any bytes.
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
PREFIX = "model.diffusion_model."


def blocks_of(kind: str) -> tuple[int, int]:
    """Values and bytes of a block."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]]


def quantised_blocks(weight: Tensor, kind: str, seed: int = 0) -> np.ndarray:
    """Bytes (rows, bytes of a row) of a weight: quantised by the library, or any bytes where it cannot."""
    if kind not in SCALES:
        return quants.quantize(weight.float().numpy(), GGMLQuantizationType[kind])
    values, size = blocks_of(kind)
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (weight.numel() // values, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = generator.uniform(1e-4, 1e-3, (len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(len(weight), -1)


def is_quantisable(name: str, weight: Tensor, kind: str) -> bool:
    return name.endswith(".weight") and weight.ndim == 2 and weight.shape[1] % blocks_of(kind)[0] == 0


def gguf(
    folder: Path,
    weights: Weights,
    kind: str,
    original_shapes: dict[str, Sequence[int]] | None = None,
    architecture: str = "mochi",
    endianess: GGUFEndian = GGUFEndian.LITTLE,
    **split: Any,
) -> Path:
    """A GGUF file: matrices of whole blocks as `kind`, others in float16, vectors in float32.

    split: how the library's writer divides it into several files, whose names it makes of the returned one.
    """
    path = folder / f"{kind}.gguf"
    writer = GGUFWriter(path, architecture, endianess=endianess, **split)
    writer.add_name("test")
    writer.add_array("general.tags", ["text-to-video", "test"])
    for name, shape in (original_shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", tuple(shape))
    for seed, (name, weight) in enumerate(weights.items()):
        if is_quantisable(name, weight, kind):
            writer.add_tensor(name, quantised_blocks(weight, kind, seed), raw_dtype=GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, weight.float().numpy().astype(np.float32 if weight.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def qweight(folder: Path, weights: Weights, kind: str) -> Path:
    """GGML blocks as tensors of bytes in safetensors, the last blocks of all and the rest in bfloat16."""
    stored = {}
    for name, weight in weights.items():
        if is_quantisable(name, weight, kind) and name.startswith("blocks.") and "mod_y" not in name:
            stored[f"{name.removesuffix('weight')}{kind}_qweight"] = torch.from_numpy(quantised_blocks(weight, kind))
        else:
            stored[name] = weight.bfloat16()
    return save(folder / f"{kind}_qweight.safetensors", stored)


def plain_float8(folder: Path, weights: Weights, dtype: torch.dtype, all_of_it: bool = False) -> Path:
    """A cast without scales, of all tensors or of the matrices in the blocks."""
    chosen = {n for n, w in weights.items() if all_of_it or (w.ndim == 2 and "block" in n and "mod_y" not in n)}
    return save(
        folder / "cast.safetensors", {n: w.to(dtype if n in chosen else torch.bfloat16) for n, w in weights.items()}
    )


def is_scaled(name: str, weight: Tensor) -> bool:
    return name.endswith(".weight") and weight.ndim == 2 and "t5_yproj" not in name and "shared" not in name


def float8_and_scale(weight: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    scale = weight.abs().amax().float() / torch.finfo(dtype).max
    return (weight / scale).to(dtype), scale


def old_scaled(folder: Path, weights: Weights, input_scale: bool = False, prefix: str = "") -> Path:
    """ComfyUI's scaled float8 as it was: a marker, and `scale_weight` beside each weight."""
    dtype = torch.float8_e4m3fn
    tensors: Weights = {f"{prefix}scaled_fp8": torch.zeros(0 if input_scale else 2, dtype=dtype)}
    for name, weight in weights.items():
        layer = prefix + name.removesuffix(".weight")
        if not is_scaled(name, weight):
            tensors[prefix + name] = weight.bfloat16()
            continue
        tensors[f"{layer}.weight"], tensors[f"{layer}.scale_weight"] = float8_and_scale(weight, dtype)
        if input_scale:
            tensors[f"{layer}.scale_input"] = torch.tensor([0.01])
    return save(folder / "old_scaled.safetensors", tensors)


def new_scaled(folder: Path, weights: Weights, beside: bool = False) -> Path:
    """ComfyUI's scaled float8 as it is: `weight_scale`, and formats in the metadata or in a tensor beside each."""
    tensors: Weights = {}
    layers = {}
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        if not is_scaled(name, weight):
            tensors[name] = weight.bfloat16()
            continue
        tensors[name], tensors[f"{layer}.weight_scale"] = float8_and_scale(weight)
        tensors[f"{layer}.input_scale"] = torch.tensor(0.01)
        layers[layer] = {"format": "float8_e4m3fn"}
        if beside:
            text = json.dumps(layers[layer]).encode()
            tensors[f"{layer}.comfy_quant"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    metadata = {} if beside else {"_quantization_metadata": {"format_version": "1.0", "layers": layers}}
    return save(folder / "new_scaled.safetensors", tensors, **metadata)


def all_in_one(folder: Path, weights: Weights, **others: Weights) -> Path:
    """A DiT (scaled float8) with other parts, each under its prefix."""
    tensors = load_file(old_scaled(folder, weights, prefix=PREFIX))
    prefixes = {"decoder": "vae.decoder.", "encoder": "vae.encoder.", "t5": "text_encoders.t5xxl.transformer."}
    for part, its in others.items():
        tensors |= {prefixes[part] + name: weight.to(torch.float16) for name, weight in its.items()}
    return save(folder / "all_in_one.safetensors", tensors)


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

GGUFS: dict[str, Writer] = {f"GGUF {kind}": partial(gguf, kind=kind) for kind in WRITABLE}
WIDE_GGUFS: dict[str, Writer] = {f"GGUF {kind}": partial(gguf, kind=kind) for kind in SCALES}
QWEIGHTS: dict[str, Writer] = {f"qweight {kind}": partial(qweight, kind=kind) for kind in ("Q4_0", "Q8_0")}
FLOAT8S: dict[str, Writer] = {
    "cast e4m3": partial(plain_float8, dtype=E4M3),
    "cast e5m2": partial(plain_float8, dtype=E5M2),
    "cast all": partial(plain_float8, dtype=E4M3, all_of_it=True),
    "old scaled": old_scaled,
    "old scaled, input scale": partial(old_scaled, input_scale=True),
    "old scaled, prefix": partial(old_scaled, prefix=PREFIX),
    "new scaled": new_scaled,
    "new scaled, beside": partial(new_scaled, beside=True),
}
