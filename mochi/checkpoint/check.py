"""Checks that a file has exactly the tensors that a network needs, and that their values are numbers."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, first_few
from .lazy import LazyTensor, RoundedTensor

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
        stored = entry.source if isinstance(entry, RoundedTensor) else entry
        count = entry.shape[0] if entry.shape else 0
        starts = {0, max(0, count - SAMPLE)}
        if not all(stored.rows(a, min(a + SAMPLE, count)).float().isfinite().all() for a in starts):
            raise CheckpointError(
                f"{path}: {name} has values that are not finite (NaN or infinite): it is damaged; download it again"
            )
