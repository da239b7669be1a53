"""The sizes of a network, read off the shapes of its tensors.

Shapes cannot tell everything. The rest is as published, unless the file's metadata says otherwise under `config`. Other
tools write there too, whatever they like: what cannot be a hint for the network is passed over.

Each function here raises KeyError on a tensor that is missing, and ValueError on sizes that cannot be.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..config import DecoderConfig, DiTConfig, EncoderConfig
from .lazy import LazyTensors


def _count(entries: LazyTensors, pattern: str) -> int:
    """How many different numbers the group of a pattern matches at the start of the names."""
    return len({m[1] for name in entries if (m := re.match(pattern, name))})


def _hints(metadata: Mapping[str, str], kind: type) -> dict[str, Any]:
    """The fields of a configuration that the metadata has and that are such as the published ones."""
    try:
        stored = json.loads(metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {f.name: stored[f.name] for f in fields(kind) if _is_like(stored.get(f.name), f.default)}


def _is_like(value: Any, published: Any) -> bool:
    """Whether a value can stand for the published one: a count for a count, a size for a size."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or isinstance(published, tuple):
        return False  # lists follow from the shapes
    return 0 < value < math.inf and (isinstance(published, float) or isinstance(value, int))


def _without(hints: dict[str, Any], name: str, *widths: int) -> dict[str, Any]:
    """The hints, without one of this name that does not divide all widths."""
    return {key: value for key, value in hints.items() if key != name or not any(width % value for width in widths)}


def dit_config(entries: LazyTensors, metadata: Mapping[str, str]) -> DiTConfig:
    """The sizes of an AsymmDiT."""
    hidden_x, channels, patch, _ = entries["x_embedder.proj.weight"].shape
    hidden_y, text_width = entries["t5_yproj.weight"].shape
    depth = _count(entries, r"blocks\.(\d+)\.")
    sizes = {
        "depth": depth,
        "num_heads": entries["pos_frequencies"].shape[1],
        "hidden_x": hidden_x,
        "hidden_y": hidden_y,
        "mlp_x": entries["blocks.0.mlp_x.w2.weight"].shape[1],
        "patch_size": patch,
        "channels": channels,
        "text_width": text_width,
    }
    if depth > 1:  # the last block has no text MLP
        sizes["mlp_y"] = entries["blocks.0.mlp_y.w2.weight"].shape[1]
    config = DiTConfig(**_without(_hints(metadata, DiTConfig), "caption_heads", text_width) | sizes)
    if config.text_width % config.caption_heads:
        raise ValueError(f"{config.caption_heads} heads cannot share a text width of {config.text_width}")
    return config


def decoder_config(entries: LazyTensors, metadata: Mapping[str, str]) -> DecoderConfig:
    """The sizes of a decoder."""
    deep, latent_channels = entries["blocks.0.0.weight"].shape[:2]
    stages = _count(entries, r"blocks\.(\d+)\.blocks\.")
    widths, temporal, res_blocks = [], [], [_count(entries, r"blocks\.0\.(\d+)\.stack\.")]
    for stage in range(1, stages + 1):
        rows, width = entries[f"blocks.{stage}.proj.weight"].shape
        widths.append(width)
        following = f"blocks.{stage + 1}.proj.weight" if stage < stages else "output_proj.weight"
        temporal.append(rows // (4 * entries[following].shape[1]))
        res_blocks.append(_count(entries, rf"blocks\.{stage}\.blocks\.(\d+)\."))
    widths.append(entries["output_proj.weight"].shape[1])
    res_blocks.append(_count(entries, rf"blocks\.{stages + 1}\.(\d+)\.stack\."))
    base = widths[-1]
    return DecoderConfig(
        **_without(_hints(metadata, DecoderConfig), "groups", *widths, deep)
        | {
            "base": base,
            "multipliers": tuple(width // base for width in [*widths[::-1][:-1], deep]),
            "res_blocks": tuple(res_blocks[::-1]),
            "temporal": tuple(temporal[::-1]),
            "spatial": (2,) * stages,
            "latent_channels": latent_channels,
        }
    )


def encoder_config(entries: LazyTensors, metadata: Mapping[str, str]) -> EncoderConfig:
    """The sizes of an encoder."""
    base, in_channels = entries["layers.0.weight"].shape
    stage_ids = sorted({int(m[1]) for name in entries if (m := re.match(r"layers\.(\d+)\.layers\.", name))})
    last = 1 + max(int(m[1]) for name in entries if (m := re.match(r"layers\.(\d+)\.", name)))
    first_stage, after_stages = stage_ids[0], stage_ids[-1] + 1
    kernels = [entries[f"layers.{i}.layers.0.weight"].shape for i in stage_ids]
    published = EncoderConfig.fourier
    hints = _without(_hints(metadata, EncoderConfig), "groups", base, *(shape[0] for shape in kernels))
    hints = _without(hints, "attention_head_dim", kernels[-1][0])
    return EncoderConfig(
        **hints
        | {
            "base": base,
            "multipliers": (1, *(shape[0] // base for shape in kernels)),
            "res_blocks": (
                first_stage - 1,
                *(_count(entries, rf"layers\.{i}\.layers\.(\d+)\.stack\.") for i in stage_ids),
                last - after_stages,
            ),
            "temporal": tuple(shape[2] for shape in kernels),
            "spatial": tuple(shape[3] for shape in kernels),
            "latent_channels": entries["output_proj.weight"].shape[0] // 2,
            "attention": (
                "layers.1.attn_block.norm.weight" in entries,
                *(f"layers.{i}.layers.1.attn_block.norm.weight" in entries for i in stage_ids),
                f"layers.{after_stages}.attn_block.norm.weight" in entries,
            ),
            "fourier": published[: (in_channels // 3 - 1) // 2],
        }
    )
