"""Whether a file has just the tensors that a network needs, and numbers in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from .file import first_few
from .lazy import LazyTensor

# Rows of each tensor that are looked at for damage; all of a file would take minutes to read.
SAMPLE = 4


def check_tensors(path: Path, title: str, entries: Mapping[str, LazyTensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless names and shapes are those of the network's parameters, `wanted`, and dtypes are
    those of weights.

    title: what the file is said to be, such as `Mochi AsymmDiT`.
    """
    problems = []
    if missing := wanted.keys() - entries.keys():
        problems.append(f"{len(missing)} tensors are missing ({first_few(missing)})")
    if surplus := entries.keys() - wanted.keys():
        problems.append(f"{len(surplus)} tensors do not belong there ({first_few(surplus)})")
    common = {name: (entries[name], tensor) for name, tensor in wanted.items() if name in entries}
    misshapen = [
        f"{name} is {list(entry.shape)}, expected {list(tensor.shape)}"
        for name, (entry, tensor) in common.items()
        if entry.shape != tuple(tensor.shape)
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} tensors have another shape ({first_few(misshapen)})")
    if strange := [name for name, (e, _) in common.items() if e.dtype is None or not e.dtype.is_floating_point]:
        problems.append(
            f"{len(strange)} tensors are not of floating point, nor packed in a known way ({first_few(strange)})"
        )
    if problems:
        raise CheckpointError(f"{path}: a {title}, but " + "; ".join(problems))


def check_numbers(path: Path, entries: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError where the first or the last rows of a tensor have NaN or infinity."""
    for name, entry in entries.items():
        count = entry.shape[0] if entry.shape else 0
        starts = {0, max(0, count - SAMPLE)}
        if not all(entry.rows(a, min(a + SAMPLE, count)).float().isfinite().all() for a in starts):
            raise CheckpointError(
                f"{path}: {name} has values that are not finite (NaN or infinite): it is damaged; download it again"
            )
