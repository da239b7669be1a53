"""The protocol of a safety check, and who asks it."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import Blocked, Cancelled, MochiError
from ..frames import to_bytes

Write = Callable[[Tensor], None]
"""Takes frames (some, H, W, 3), floats in [0, 1] or uint8."""

PIECE = 64
"""Frames of a whole video that are looked through at a time."""


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
    """A check. An organisation can have its own, see the entry points `mochi.safety`.

    It may have an attribute `every`: it is asked about every n-th frame, and always about the first and the last one.
    Without it that is every frame; with 0 it is not asked about frames.

    A finding is a Finding, anything else with its attributes, or a text, the reason.
    """

    def check_prompt(self, text: str) -> Finding | str | None:
        """What is wrong with a prompt; None where nothing is."""
        ...

    def check_frames(self, frames: Tensor) -> Finding | str | None:
        """What is wrong with frames (F, H, W, 3), uint8 on the CPU; None where nothing is."""
        ...


class Guard:
    """Asks checks. What they find is raised as Blocked, and so is nothing else.

    A check that fails lets nothing through: MochiError.

    Args:
        checks: each with its name, for messages.
        log: where what is blocked is to be written down, see `logged`; None: beside the video.
    """

    def __init__(self, checks: Sequence[tuple[str, Safety]], log: Path | None = None):
        self.log = log
        self._checks = checks
        self._lookers = [(name, check, every) for name, check in checks if (every := _every(name, check))]

    @property
    def looks_at_frames(self) -> bool:
        """Whether any check does."""
        return bool(self._lookers)

    def check_prompt(self, text: str, settings: Mapping[str, Any]) -> None:
        """Raise Blocked where a check finds something. settings: of the video, for the log."""
        for name, check in self._checks:
            finding = _asked(name, check.check_prompt, text)
            if finding is not None:
                raise _blocked("the prompt", name, finding, settings)

    def check_frames(self, frames: Tensor, settings: Mapping[str, Any]) -> None:
        """The same of the frames of a whole video (F, H, W, 3), floats in [0, 1] or uint8."""
        with guarded(lambda _: None, self, settings) as look:
            for some in frames.split(PIECE):
                look(some)

    def look(self, frames: Tensor, first: int, settings: Mapping[str, Any], last: bool = False) -> None:
        """Raise Blocked for those of the next frames that checks are to see.

        Args:
            frames: (some, H, W, 3).
            first: the number of the first of them in the video.
            last: whether it is the last of the video, and alone.
        """
        for name, check, every in self._lookers:
            seen = [i for i in range(len(frames)) if ((first + i) % every == 0) != last]
            if seen:
                finding = _asked(name, check.check_frames, _pixels(frames[seen]))
                if finding is not None:
                    number = finding.frame or 0
                    frame = first + seen[number if number < len(seen) else 0]
                    raise _blocked(f"frame {frame}", name, finding, settings, frame)

    def passed(self, frames: int) -> int:
        """How many of the first frames have one behind them, or are one, that each check has seen."""
        return min(((frames - 1) // every * every + 1 for _, _, every in self._lookers), default=frames)


@contextmanager
def guarded(write: Write, guard: Guard | None, settings: Mapping[str, Any]) -> Iterator[Write]:
    """Inside, a function that writes frames once a guard has let them pass; the very `write` where there is none.

    Frames between two that are looked at wait for the later one, and are written at the end at the latest. So what is
    beside a frame that is blocked is not written either.
    """
    if guard is None:
        yield write
        return
    gate = _Gate(write, guard, settings)
    yield gate.take
    gate.end()


class _Gate:
    """Frames of one video on their way to `write`, all of them unchanged and in their order."""

    def __init__(self, write: Write, guard: Guard, settings: Mapping[str, Any]):
        self._write, self._guard, self._settings = write, guard, settings
        self._waiting: deque[Tensor] = deque()
        self._came = self._written = 0

    def take(self, frames: Tensor) -> None:
        if not len(frames):
            return
        self._guard.look(frames, self._came, self._settings)
        self._came += len(frames)
        now = self._guard.passed(self._came) - self._written
        if now == len(frames) and not self._waiting:
            self._let_out(frames)
            return
        self._waiting.append(frames)
        while now > 0:
            head = self._waiting.popleft()
            self._let_out(head[:now])
            if now < len(head):
                self._waiting.appendleft(head[now:])
            now -= len(head)
        if self._waiting:
            # The memory may be another's by then, and a view would hold all of it.
            self._waiting.append(self._waiting.pop().clone())

    def end(self) -> None:
        """The last frame is looked at, whatever its number."""
        if self._waiting:
            self._guard.look(self._waiting[-1][-1:], self._came - 1, self._settings, last=True)
        while self._waiting:
            self._let_out(self._waiting.popleft())

    def _let_out(self, frames: Tensor) -> None:
        self._written += len(frames)
        self._write(frames)


def _every(name: str, check: Safety) -> int:
    every = getattr(check, "every", 1)
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise MochiError(f"the safety check {name} has every = {every!r}, but must have a whole number (0: no frames)")
    return every


def _pixels(frames: Tensor) -> Tensor:
    """As they are going to be written: (some, H, W, 3), uint8 on the CPU."""
    return (to_bytes(frames) if frames.is_floating_point() else frames).cpu()


def _asked(name: str, ask: Callable[[Any], Any], about: Any) -> Finding | None:
    try:
        found = ask(about)
        if found is None or isinstance(found, Finding):
            return found
        if isinstance(found, str):
            return Finding(found)
        score, frame = getattr(found, "score", None), getattr(found, "frame", None)
        numbers = None if score is None else float(score), None if frame is None else int(frame)
        return Finding(str(found.reason), *numbers)
    except Cancelled:
        raise
    except MochiError as error:  # which may be of a class that no other process knows
        raise MochiError(str(error)) from error
    except Exception as error:  # of somebody else's code
        reason = f"{type(error).__name__}: {error}"
        raise MochiError(f"the safety check {name} failed, so nothing is made: {reason}") from error


def _blocked(what: str, name: str, finding: Finding, settings: Mapping[str, Any], frame: int | None = None) -> Blocked:
    score = "" if finding.score is None else f" (score {finding.score:.2f})"
    found = {"check": name, "reason": finding.reason, "score": finding.score, "frame": frame}
    message = f"{what} is blocked by the safety check {name}: {finding.reason}{score}"
    return Blocked(message, {**found, "settings": dict(settings)})
