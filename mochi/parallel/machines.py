"""Which ranks are on which machine, by the number of the machine of each rank."""

from collections.abc import Sequence
from itertools import groupby

from ..errors import MochiError


def machine_of_each(machines: Sequence[int], ranks: int) -> tuple[int, ...]:
    """The machine of each of `ranks` ranks. None named: all are on one.

    Raises MochiError unless there is one for each rank, and the ranks of a machine follow each other: those that share
    a forward pass are neighbours.
    """
    if not machines:
        return (0,) * ranks
    if len(machines) != ranks:
        raise MochiError(f"machines are named for {len(machines)} ranks, but there are {ranks}")
    if len(list(groupby(machines))) != len(set(machines)):
        raise MochiError(f"machines are {tuple(machines)}, but the ranks of one machine must follow each other")
    return tuple(machines)


def ranks_of_each(machines: Sequence[int]) -> dict[int, list[int]]:
    """The ranks of each machine."""
    numbers = dict.fromkeys(machines)
    return {number: [rank for rank, machine in enumerate(machines) if machine == number] for number in numbers}
