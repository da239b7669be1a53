"""The networks that a checkpoint can hold: their sizes, and their modules without weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import DiTConfig
from ..dit import AsymmDiT
from ..vae import Decoder, Encoder
from .infer import decoder_config, dit_config, encoder_config
from .lazy import LazyTensors

Shape = tuple[int, ...]

CONFIGS: dict[str, Callable[[LazyTensors, Mapping[str, str]], Any]] = {
    "dit": dit_config,
    "decoder": decoder_config,
    "encoder": encoder_config,
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {"dit": AsymmDiT, "decoder": Decoder, "encoder": Encoder}

QUANTISED = ("dit", "t5")
"""The parts whose Linear layers can stay quantised. The VAE is made of convolutions."""


def config_of(part: str, entries: LazyTensors, metadata: Mapping[str, str], path: Path) -> Any:
    """The sizes of a part, read off its tensors, or off a T5 folder's config.json.

    Raises CheckpointError on a config.json that is not T5's, and KeyError, ValueError and their kin on tensors that are
    missing or misshapen.
    """
    if part != "t5":
        return CONFIGS[part](entries, metadata)
    from .t5 import infer_config, read_config  # imports transformers, which takes half a second

    config_file = path / "config.json"
    return read_config(config_file) if config_file.is_file() else infer_config(entries)


def empty_network(
    part: str, config: Any, dtype: torch.dtype, operations: Any = nn, network: Callable[..., nn.Module] | None = None
) -> nn.Module:
    """The network of a part on the meta device, of layers from `operations`."""
    if part != "t5":
        return (network or NETWORKS[part])(config, dtype=dtype, device="meta", operations=operations)
    from .t5 import empty_encoder

    return empty_encoder(config, dtype, operations)


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """The shape of each parameter."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def parameter_shapes(part: str, config: Any) -> dict[str, Shape]:
    """The shape of each parameter of a part."""
    return dit_shapes(config) if part == "dit" else shapes_of(empty_network(part, config, torch.float32))


@lru_cache(maxsize=8)
def dit_shapes(config: DiTConfig) -> dict[str, Shape]:
    """The shape of each parameter of an AsymmDiT.

    Two blocks are enough to tell: all but the last are alike, and a network of 48 takes half a second to build.
    """
    last = config.depth - 1
    shapes: dict[str, Shape] = {}
    for name, shape in shapes_of(AsymmDiT(replace(config, depth=min(2, config.depth)), device="meta")).items():
        if not name.startswith("blocks."):
            shapes[name] = shape
            continue
        _, index, parameter = name.split(".", 2)
        alike = [last] if int(index) == min(1, last) else range(last)
        shapes |= {f"blocks.{i}.{parameter}": shape for i in alike}
    return shapes
