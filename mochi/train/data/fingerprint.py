"""What the cache knows a network by: the names and shapes of its weights, and some of their values."""

import hashlib
from pathlib import Path

from ...checkpoint import Checkpoint
from ...checkpoint.lazy import LazyTensor

SAMPLES = 4
"""Rows of each tensor that are looked at, the first and the last among them."""


def fingerprint(checkpoint: Checkpoint, part: str, *files: Path) -> str:
    """A digest of a part of a checkpoint, whatever file it lies in, and of whole small files beside it.

    Other weights have another one, unless they differ in none of the rows looked at. Training changes all rows.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(checkpoint.entries(part).items()):
        digest.update(f"{name} {entry.shape} {entry.dtype} {entry.quant and entry.quant.title}\n".encode())
        _add_samples(digest, entry)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _add_samples(digest: "hashlib._Hash", entry: LazyTensor) -> None:
    if not entry.shape or 0 in entry.shape:
        return
    last = entry.shape[0] - 1
    for row in sorted({last * sample // (SAMPLES - 1) for sample in range(SAMPLES)}):
        digest.update(entry.rows(row, row + 1).float().contiguous().numpy().tobytes())
