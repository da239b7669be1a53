"""The protocol of a safety check, and who asks it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Write = Callable[[Tensor], None]
"""Takes frames (some, H, W, 3), floats in [0, 1] or uint8."""


@dataclass(frozen=True)
class Finding:
    """Why something is blocked.

    Attributes:
        reason: for the person who asked for it.
        score: how sure the check is, 0 to 1, where it has one.
        frame: the number among those that were looked at.
    """

    reason: str
    score: float | None = None
    frame: int | None = None


class Safety(Protocol):
    """A check. An organisation can have its own, see the entry points `mochi.safety`."""

    def check_prompt(self, text: str) -> Finding | None:
        """What is wrong with a prompt; None where nothing is."""
        ...

    def check_frames(self, frames: Tensor) -> Finding | None:
        """What is wrong with frames (F, H, W, 3), uint8; None where nothing is."""
        ...


class Guard:
    """Asks checks, and writes down what they block."""

    def __init__(self, checks: Sequence[Safety]):
        self._checks = checks

    def check_prompt(self, text: str, settings: Mapping[str, Any]) -> None:
        """Raise Blocked where a check finds something. settings: of the video, for the log."""
        raise NotImplementedError

    def check_frames(self, frames: Tensor, settings: Mapping[str, Any]) -> None:
        """The same of frames (F, H, W, 3), floats in [0, 1] or uint8."""
        raise NotImplementedError


@contextmanager
def guarded(write: Write, guard: Guard | None, settings: Mapping[str, Any]) -> Iterator[Write]:
    """Inside, a function that writes frames once a guard has let them pass; the very `write` where there is none."""
    if guard is None:
        yield write
        return
    raise NotImplementedError
