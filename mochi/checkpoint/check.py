"""Whether a file has just the tensors that a network needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from .file import Entry, first_few


def check_tensors(path: Path, title: str, entries: Mapping[str, Entry], wanted: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless names and shapes are those of the network's parameters, `wanted`.

    title: what the file is said to be, such as `Mochi AsymmDiT`.
    """
    problems = []
    if missing := wanted.keys() - entries.keys():
        problems.append(f"{len(missing)} tensors are missing ({first_few(missing)})")
    if surplus := entries.keys() - wanted.keys():
        problems.append(f"{len(surplus)} tensors do not belong there ({first_few(surplus)})")
    misshapen = [
        f"{name} is {list(entries[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in entries and entries[name].shape != tuple(tensor.shape)
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} tensors have another shape ({first_few(misshapen)})")
    if problems:
        raise CheckpointError(f"{path}: a {title}, but " + "; ".join(problems))


def check_not_quantised(path: Path, entries: Mapping[str, Entry], instead: str) -> None:
    """Raise CheckpointError on weights with scales or packed bits; plain fp8 can be cast. `instead`: what to choose."""
    scaled = [name for name in entries if name == "scaled_fp8" or name.endswith((".scale_weight", ".weight_scale"))]
    packed = [name for name, e in entries.items() if e.dtype is None or not e.dtype.is_floating_point]
    if scaled or packed:
        raise CheckpointError(
            f"{path}: quantised weights ({first_few(scaled or packed, 2)}), which are not supported yet; use {instead}"
        )
