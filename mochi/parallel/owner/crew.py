"""The workers of a group, wherever they run, as the group needs them."""

from collections.abc import Sequence
from typing import Any, Protocol

from .failures import RankState


class Channel(Protocol):
    """From a worker, and to it."""

    def receive(self) -> Any:
        """The next message. Raises EOFError or ConnectionError where no more come."""
        ...

    def fileno(self) -> int:
        """Lets a selector wait for messages."""
        ...


class Worker(Protocol):
    """One worker.

    Attributes:
        state: what was heard of it.
        pid: of its process, on its machine.
    """

    rank: int
    state: RankState

    @property
    def channel(self) -> Channel: ...

    @property
    def pid(self) -> int: ...

    @property
    def exitcode(self) -> int | None:
        """None while it runs; below zero the number of the signal that ended it."""
        ...

    @property
    def is_alive(self) -> bool: ...

    def show_stacks(self) -> None:
        """Have it tell where each of its threads is."""


class Board(Protocol):
    """What is said, and heard, while the workers compute."""

    def cancel(self, request: int) -> None:
        """Say that the request of this number, and all before it, are cancelled."""

    @property
    def beats(self) -> Sequence[float]:
        """When each worker last showed that it lives, in seconds of time.monotonic."""
        ...


class Crew(Protocol):
    """The workers of a group."""

    @property
    def workers(self) -> Sequence[Worker]:
        """Those that were made so far."""
        ...

    @property
    def board(self) -> Board: ...

    def start(self, service: tuple[str, str], timeout: float, machines: Sequence[int]) -> None:
        """Make the workers and tell each how to start, see Start; they answer it like a request of number 0."""

    def send(self, message: Any) -> None:
        """To all workers; one that is gone is left out. Raises OSError or RuntimeError where some did not get it,
        GroupError where what carries messages has ended."""

    def keep_logs(self) -> str:
        """After a failure: note in the workers' states what is not known of their ends, see that logs stay, and note
        where. Returns where, in words."""
        ...

    def end(self, patience: float) -> None:
        """End the workers, those that do not go in so many seconds by force, and remove all that they share."""
