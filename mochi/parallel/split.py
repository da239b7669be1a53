"""How a generation is cut over ranks: guidance x Ulysses.

Guidance splits the forward passes of a step (with and without the prompt) over two halves of the ranks, Ulysses
splits the tokens of one forward pass. Both halves of guidance hold whole passes, so they exchange next to nothing,
while Ulysses moves every query, key and value once: with two passes a step, guidance comes first. Over several
machines, guidance is what joins them, and Ulysses stays inside each.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import MochiError

MOST_PASSES = 3
"""Of a step: with the prompt, without it, and with it but without some layers."""


class Split(NamedTuple):
    """`cfg_degree` forward passes at a time, each over `ulysses_degree` ranks."""

    cfg_degree: int
    ulysses_degree: int

    @property
    def ranks(self) -> int:
        return self.cfg_degree * self.ulysses_degree

    def __str__(self) -> str:
        return f"guidance {self.cfg_degree} x Ulysses {self.ulysses_degree}"

    def described(self, passes: int) -> str:
        """In words, with what it wastes in a step of so many passes."""
        idle = self.ranks - self.ulysses_degree * min(passes, self.cfg_degree)
        return f"{self}{f' ({idle} of {self.ranks} ranks repeat what others do)' if idle else ''}"

    def crosses(self, machines: Sequence[int]) -> bool:
        """Whether ranks that share a pass are on several machines. machines: that of each rank; empty: all on one."""
        passes = (machines[first : first + self.ulysses_degree] for first in range(0, self.ranks, self.ulysses_degree))
        return any(len(set(ranks)) > 1 for ranks in passes)


def shares_of(rows: int, ranks: int) -> list[int]:
    """How many of the rows each rank has: as equal as can be, those left over with the first ranks."""
    each, left_over = divmod(rows, ranks)
    return [each + (rank < left_over) for rank in range(ranks)]


def splits(ranks: int, heads: int, passes: int = 2) -> list[Split]:
    """All ways to keep exactly `ranks` ranks busy with so many passes a step, the one that sends least first."""
    all_ways = (Split(degree, ranks // degree) for degree in range(passes, 0, -1) if ranks % degree == 0)
    return [split for split in all_ways if heads % split.ulysses_degree == 0]


def usable_ranks(available: int, heads: int, machines: int = 1) -> int:
    """The largest number of ranks on each machine, `available` at most, that a model with so many heads can be split
    over."""
    if machines > 1:  # one pass a machine
        return next(ranks for ranks in range(available, 0, -1) if heads % ranks == 0)
    return next(ranks for ranks in range(available, 0, -1) if splits(ranks, heads))


def usable_machines(available: int, passes: int) -> int:
    """How many machines, `available` at most, a step of so many passes keeps busy: one each. More would repeat what
    others do, or have Ulysses cross a network."""
    return min(available, passes)


def choose_split(
    ranks: int, heads: int, passes: int, cfg_degree: int = 0, ulysses_degree: int = 0, machines: Sequence[int] = ()
) -> Split:
    """The split of `ranks` ranks for a step of `passes` forward passes: the prompt, guidance, skip-layer guidance.

    Args:
        cfg_degree, ulysses_degree: what a person has chosen, 0 for no choice. Without any, Ulysses stays inside each
            machine: a single pass is then made by each of them.
        machines: the number of the machine of each rank; empty where all are on one.

    Raises MochiError where they cannot be, or machines have not as many ranks each.
    """
    of_each = list(Counter(machines).values()) or [ranks]
    if len(set(of_each)) > 1:
        raise MochiError(_uneven(of_each, heads))
    # Where a single pass has heads that do not divide by all ranks, both halves make the same pass.
    possible = splits(ranks, heads, max(passes, cfg_degree, 2, min(len(of_each), MOST_PASSES)))
    chosen = [s for s in possible if cfg_degree in (0, s.cfg_degree) and ulysses_degree in (0, s.ulysses_degree)]
    if not (cfg_degree or ulysses_degree):
        chosen = [s for s in chosen if not s.crosses(machines)]
    if not chosen and len(of_each) > 1 and not (cfg_degree or ulysses_degree):
        raise MochiError(_why_not_inside(of_each, heads, possible))
    if not chosen:
        raise MochiError(_why_not(ranks, heads, cfg_degree, ulysses_degree, possible))
    # Each rank's share of a step; of equal ones, the split that sends least, which comes first.
    return min(chosen, key=lambda s: math.ceil(passes / s.cfg_degree) / s.ulysses_degree)


def _why_not(ranks: int, heads: int, cfg_degree: int, ulysses_degree: int, possible: list[Split]) -> str:
    ways = " or ".join(map(str, possible)) or f"none; use {usable_ranks(ranks, heads)} ranks"
    return (
        f"{ranks} ranks cannot be split as guidance {cfg_degree or 'auto'} x Ulysses {ulysses_degree or 'auto'}: "
        f"guidance is 1, 2, or 3 with skip-layer guidance, Ulysses must divide the model's {heads} heads, and their "
        f"product must be {ranks}. "
        f"Possible: {ways}."
    )


def _uneven(of_each: list[int], heads: int) -> str:
    return (
        f"The machines have {', '.join(map(str, of_each[:-1]))} and {of_each[-1]} ranks, but each must have as many: "
        f"they make one pass each, and the slowest would be waited for. {_numbers(min(of_each), heads)}"
    )


def _why_not_inside(of_each: list[int], heads: int, possible: list[Split]) -> str:
    machines, ranks = len(of_each), of_each[0]
    if machines > MOST_PASSES:
        reason = (
            f"{machines} machines cannot make one video together: each makes one forward pass of a step, of which "
            f"there are 2 with guidance, {MOST_PASSES} with skip-layer guidance too. Use as many machines as there are "
            "passes, and the others for other videos."
        )
    else:
        reason = (
            f"{machines} machines with {ranks} ranks each cannot make one video together: the ranks of a machine share "
            f"a pass, so their number must divide the model's {heads} heads. {_numbers(ranks, heads)}"
        )
    if not possible:
        return reason
    ways = " or ".join(map(str, possible))
    return f"{reason} Chosen by hand, passes can be spread over machines too ({ways}), at the cost of their network."


def _numbers(most: int, heads: int) -> str:
    """The numbers of ranks that several machines can have each."""
    work = [str(ranks) for ranks in range(1, most + 1) if heads % ranks == 0]
    return f"Numbers that work on each: {', '.join(work)}."
