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
