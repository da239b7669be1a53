"""Which machines of a cluster the ranks of one video are on, and how many are on each."""

from __future__ import annotations

from collections.abc import Sequence

from ...cluster.machines import Machine
from ...config import DiTConfig
from ...errors import MochiError
from ..settings import ParallelSettings
from ..split import usable_ranks
from .crew import Post

PASSES = 2
"""Forward passes of a step with guidance: so many machines share it without sending much, and "auto" takes no more."""


def place_ranks(machines: Sequence[Machine], settings: ParallelSettings) -> list[Post]:
    """A post for each rank: those of a machine one after the other, the same number on each.

    Machines without GPUs are left out where others have some. Raises MochiError where the settings ask for more than is
    there.
    """
    most = max((machine.gpus for machine in machines), default=0)
    on_gpus = most > 0 and not settings.cpu
    wanted = gpus_of_each(settings)
    fit = [machine for machine in machines if not on_gpus or machine.gpus >= (wanted or 1)]
    count = settings.machines or min(PASSES, len(fit))
    if not fit or len(fit) < count:
        raise MochiError(_too_few(machines, fit, wanted, count, on_gpus))
    # Where all of its GPUs are wanted, those with most come first: a machine has as many ranks as any other.
    chosen = (fit if wanted else sorted(fit, key=lambda machine: -machine.gpus))[:count]
    least = min(machine.gpus for machine in chosen)
    each = wanted or (usable_ranks(least, DiTConfig.num_heads, count) if on_gpus else 1)
    return [_post(machine, number, each, on_gpus) for machine in chosen for number in range(each)]


def _post(machine: Machine, number: int, each: int, on_gpus: bool) -> Post:
    if on_gpus:
        return Post(machine, "cuda:0", f"GPU {number + 1} of {each}", 1, 0, max(1, machine.cpus // each))
    threads = max(1, machine.cpus // each)
    return Post(machine, "cpu", "cpu", 0, min(threads, machine.cpus / each), threads)


def gpus_of_each(settings: ParallelSettings) -> int:
    """How many GPUs of each machine, 0 for as many as it has. Raises MochiError on anything else."""
    text = settings.gpus.strip()
    if text == "all":
        return 0
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise MochiError(
        f"gpus is {settings.gpus!r}, but on a cluster must be 'all' or how many of each machine: Ray chooses which"
        f"{settings.place}"
    )


def _too_few(machines: Sequence[Machine], fit: Sequence[Machine], wanted: int, count: int, on_gpus: bool) -> str:
    there = "; ".join(f"{machine.name} ({machine.gpus} GPUs)" for machine in machines)
    having = f" with {wanted or 1} GPUs or more" if on_gpus else ""
    return (
        f"{max(count, 1)} machines{having} are asked for, but {len(fit)} are in the cluster. It has: {there}. "
        "`ray start --address=HOST:6379` on another machine lets it join."
    )
