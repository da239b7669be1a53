"""Checks that a file has exactly the tensors that a network needs, and that their values are numbers."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, first_few
from .hosted import DequantizedTensor, HostTensor
from .lazy import LazyTensor, RoundedTensor

PLAIN = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes of scales that are plain numbers."""

SAMPLE = 4
"""How many rows at each end of a tensor are checked for damage. Reading all of a file would take minutes."""


def check_tensors(
    path: Path, title: str, entries: Mapping[str, LazyTensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError unless names and shapes are as wanted, and weights can have the dtypes.

    title: what messages call the file, such as `Mochi AsymmDiT`.
    """
    common = [(name, entries[name]) for name in wanted if name in entries]
    misshapen = [f"{n} is {list(e.shape)}, expected {list(wanted[n])}" for n, e in common if e.shape != wanted[n]]
    strange = [name for name, entry in common if entry.dtype is None or not entry.dtype.is_floating_point]
    found = {
        "are missing": wanted.keys() - entries.keys(),
        "do not belong there": entries.keys() - wanted.keys(),
        "have another shape": misshapen,
        "are not of floating point, nor packed in a known way": strange,
    }
    problems = [f"{len(names)} tensors {what} ({first_few(names)})" for what, names in found.items() if names]
    if problems:
        raise CheckpointError(f"{path}: a {title}, but " + "; ".join(problems))


def check_numbers(path: Path, entries: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError where the first or the last rows of a tensor have NaN or infinity."""
    for name, entry in entries.items():
        if not all(rows.float().isfinite().all() for rows in _samples(entry)):
            raise CheckpointError(
                f"{path}: {name} has values that are not finite (NaN or infinite): it is damaged; download it again"
            )


def _samples(entry: LazyTensor) -> Iterator[Tensor]:
    """Some rows of a tensor; of one that only the host can read, its scales."""
    if isinstance(entry, RoundedTensor | DequantizedTensor):
        entry = entry.source
    if isinstance(entry, HostTensor):
        yield from (scale.read() for scale in entry.stored.values() if scale.dtype in PLAIN)
        return
    count = entry.shape[0] if entry.shape else 0
    for start in {0, max(0, count - SAMPLE)}:
        yield entry.rows(start, min(start + SAMPLE, count))
