"""The answer of every estimate, and what a device takes for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 10**9

CONTEXT = 600_000_000
"""Bytes of a card that no tensor gets: the driver's context and its kernels, 0.5 to 0.8 GB. Not measured here."""

SLACK = 400_000_000
"""Bytes that a phase takes besides its tensors: holes of the allocator, libraries' workspaces. Not measured here."""

CONNECTION = 10 * 2**20
"""Bytes of the buffers through which a channel of NCCL receives: 4 MiB (NCCL_BUFFSIZE), 4.7 MiB of the protocol LL128
and 0.5 MiB of LL, in pages of 2 MiB."""

CHANNELS = 16
"""Of a communicator. NCCL takes 2 to 4 over PCIe, up to 24 or 32 over NVLink, and shares them out among the peers."""

COMMUNICATORS = 3
"""Of a rank: with all others (FSDP, and decoding), with those that share its pass, with those of the other guidance."""

NCCL = COMMUNICATORS * CHANNELS * CONNECTION
"""Bytes of NCCL's buffers on each of several GPUs. From its defaults, not measured."""


@dataclass(frozen=True)
class Need:
    """Bytes on one device at the peak of a phase, by name. host: bytes of weights in the machine's memory, of all
    ranks together."""

    parts: Mapping[str, int]
    host: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def collectives(ranks: int) -> int:
    """Bytes that a device gives to the exchange with others."""
    return NCCL if ranks > 1 else 0


def readable(size: int) -> str:
    """Bytes for people, such as `20 GB` or `5.8 GB`."""
    return f"{size / GB:.1f} GB" if size < 10 * GB else f"{size / GB:.0f} GB"
