"""Work of the ranks that takes time, as their owner follows it."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from ..protocol import Event

Result = TypeVar("Result")

Work = Generator[Event | None, None, Result]
"""Yields the ranks' events as they come, and None at least every POLL seconds, so that the caller can look whether the
work is still wanted; returns a result. Closing it cancels the work."""


def finish(
    work: Work[Result], on_event: Callable[[Event], None] | None = None, check: Callable[[], None] | None = None
) -> Result:
    """Run work to its end and return its result.

    Args:
        on_event: hears what the ranks tell.
        check: is called all the while. What it or on_event raises cancels the work.
    """
    with closing(work):
        while True:
            if check is not None:
                check()
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            if event is not None and on_event is not None:
                on_event(event)
