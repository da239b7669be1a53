"""How a generation is cut over ranks: guidance x Ulysses.

Guidance splits the forward passes of a step (with and without the prompt) over two halves of the ranks, Ulysses
splits the tokens of one forward pass. Both halves of guidance hold whole passes, so they exchange next to nothing,
while Ulysses moves every query, key and value once: with two passes a step, guidance comes first.
"""

import math
from typing import NamedTuple

from ..errors import MochiError


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


def splits(ranks: int, heads: int, passes: int = 2) -> list[Split]:
    """All ways to keep exactly `ranks` ranks busy with so many passes a step, the one that sends least first."""
    all_ways = (Split(degree, ranks // degree) for degree in range(passes, 0, -1) if ranks % degree == 0)
    return [split for split in all_ways if heads % split.ulysses_degree == 0]


def usable_ranks(available: int, heads: int) -> int:
    """The largest number of ranks, `available` at most, that a model with so many heads can be split over."""
    return next(ranks for ranks in range(available, 0, -1) if splits(ranks, heads))


def choose_split(ranks: int, heads: int, passes: int, cfg_degree: int = 0, ulysses_degree: int = 0) -> Split:
    """The split of `ranks` ranks for a step of `passes` forward passes: the prompt, guidance, skip-layer guidance.

    cfg_degree, ulysses_degree: what a person has chosen, 0 for no choice. Raises MochiError where they cannot be.
    """
    # Where a single pass has heads that do not divide by all ranks, both halves make the same pass.
    possible = splits(ranks, heads, max(passes, cfg_degree, 2))
    chosen = [s for s in possible if cfg_degree in (0, s.cfg_degree) and ulysses_degree in (0, s.ulysses_degree)]
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
