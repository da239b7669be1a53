"""Work that each rank does by itself, and that all end if one of them does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import Cancelled
from .ranks import Ranks


@contextmanager
def together(ranks: Ranks) -> Iterator[Callable[[], None]]:
    """Gives a barrier, which all ranks call equally often, and waits for all ranks at the end.

    What a rank raises ends the others at their next barrier, with Cancelled: they would wait for it in vain.
    """
    over = False

    def barrier() -> None:
        nonlocal over
        over = ranks.any(False)
        if over:
            raise Cancelled("another process of the run has ended it, and says why")

    try:
        yield barrier
        barrier()
    except BaseException:
        if not over:
            ranks.any(True)
        raise
