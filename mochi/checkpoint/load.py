"""From a weight file to a network: recognised, checked, then filled tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..dit import AsymmDiT
from ..errors import CheckpointError
from ..vae import Decoder, Encoder
from .check import check_not_quantised, check_tensors
from .file import Entry, WeightFile, first_few
from .identify import TITLES, parts_of, seems_to_be
from .infer import decoder_config, dit_config, encoder_config

Network = TypeVar("Network", bound=nn.Module)
Device = torch.device | str | None

NETWORKS: dict[str, type[nn.Module]] = {"dit": AsymmDiT, "decoder": Decoder, "encoder": Encoder}
PLAIN = {
    "dit": "mochi_preview_bf16.safetensors",
    "decoder": "mochi_vae.safetensors",
    "encoder": "mochi_vae.safetensors",
}
CONFIGS: dict[str, Callable[..., Any]] = {"dit": dit_config, "decoder": decoder_config, "encoder": encoder_config}


def load_dit(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: Device = None,
    operations: Any = nn,
    network: type[AsymmDiT] = AsymmDiT,
) -> AsymmDiT:
    """AsymmDiT of a file, its weights in `dtype` (None: as stored) on `device`.

    Raises CheckpointError on any file but a whole AsymmDiT.
    """
    return _load(path, "dit", network, dtype, device, operations)


def load_decoder(
    path: str | Path, dtype: torch.dtype | None = None, device: Device = None, operations: Any = nn
) -> Decoder:
    """AsymmVAE decoder of a decoder file or a combined one. Raises CheckpointError like `load_dit`."""
    return _load(path, "decoder", Decoder, dtype, device, operations)


def load_encoder(
    path: str | Path, dtype: torch.dtype | None = None, device: Device = None, operations: Any = nn
) -> Encoder:
    """AsymmVAE encoder of an encoder file or a combined one. Raises CheckpointError like `load_dit`."""
    return _load(path, "encoder", Encoder, dtype, device, operations)


def read_config(path: str | Path, part: str) -> Any:
    """Sizes of one part ("dit", "decoder", "encoder") of a file, without reading weights.

    Raises CheckpointError when the part is not in the file or tensors are missing.
    """
    file = WeightFile(path)
    return _config_of(file, part, _entries_of(file, part))


def contains(path: str | Path) -> set[str]:
    """Which parts of a Mochi ("dit", "decoder", "encoder") a file holds; raises CheckpointError if unreadable."""
    return set(parts_of(WeightFile(path)))


def check_file(path: str | Path, part: str) -> None:
    """Raise CheckpointError unless one part ("dit", "decoder", "encoder") of a file is whole. Reads no weights."""
    blueprint(path, part, NETWORKS[part])


def _load(path: str | Path, part: str, network: type[Network], dtype: Any, device: Device, operations: Any) -> Network:
    model, entries = blueprint(path, part, network, dtype, operations)
    parameters = model.named_parameters()
    weights = {name: entries[name].read().to(device=device, dtype=p.dtype) for name, p in parameters}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def blueprint(
    path: str | Path, part: str, network: type[Network], dtype: torch.dtype | None = None, operations: Any = nn
) -> tuple[Network, dict[str, Entry]]:
    """The network of a part without its weights, and where in the file they are, all of them and no others.

    Raises CheckpointError like `load_dit`.
    """
    file = WeightFile(path)
    entries = _entries_of(file, part)
    config = _config_of(file, part, entries)
    check_not_quantised(file.path, entries, PLAIN[part])
    dtype = dtype or max(entries.values(), key=lambda entry: math.prod(entry.shape)).dtype
    try:
        model = network(config, dtype=dtype, device="meta", operations=operations)
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{file.path}: a {TITLES[part]} of sizes that cannot be: {error}") from error
    check_tensors(file.path, TITLES[part], entries, dict(model.named_parameters()))
    return model, entries


def _entries_of(file: WeightFile, part: str) -> dict[str, Entry]:
    found = parts_of(file)
    if part not in found:
        raise CheckpointError(
            f"{file.path}: not a {TITLES[part]}; it seems to be {seems_to_be(file)} "
            f"(its tensors: {first_few(file.entries)})"
        )
    return found[part]


def _config_of(file: WeightFile, part: str, entries: dict[str, Entry]) -> Any:
    try:
        return CONFIGS[part](entries, file.metadata)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{file.path}: a {TITLES[part]} with tensors missing or misshapen: {error}") from error
