"""The owner's ear for one request: events, answers, and silence."""

import math
import selectors
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from ...errors import Cancelled, MochiError
from ..protocol import Answer, Event, Failed, Left, Refused, Reply
from .crew import Board, Worker

POLL = 0.05  # seconds between two looks at the caller's wish to cancel
GRACE = 0.5  # seconds for the ranks to say which of them failed first
LOCKSTEP = 10.0  # seconds within which all ranks refuse a request that one refuses
LIFELESS = 2.0  # seconds without a beat, which comes four times a second, that tell a stopped process from a slow one


class RanksFailed(Exception):
    """A rank has failed; the states of the workers tell which, and how."""


class OutOfStep(MochiError):
    """A rank has refused a request that others have not refused."""


@dataclass
class Hearing:
    """Hears the ranks until each has answered one request, and notes in `worker.state` what becomes of them.

    Attributes:
        number, doing: of the request.
        timeout: seconds without a sign of life after which a rank has failed.
        patience: seconds without a word on this request after which a rank has failed.
    """

    workers: Sequence[Worker]
    board: Board
    number: int
    doing: str
    timeout: float
    patience: float

    def __post_init__(self) -> None:
        self._open = list(self.workers)  # those whose channel has not ended
        self._answers: dict[int, Answer | Left | Refused] = {}
        for worker in self.workers:
            worker.state.begin(self.doing)

    def events(self) -> Generator[Event | None, None, list[Answer]]:
        """The events as they come, and None at least every POLL seconds. Returns the Answer of each rank.

        Raises RanksFailed, MochiError where the request is refused, Cancelled.
        """
        heard = time.monotonic()
        patience_with_others = math.inf
        while len(self._answers) < len(self.workers):
            for worker, reply in self._receive(POLL):
                if reply.number != self.number:
                    continue  # left over from a request that was cancelled
                heard = time.monotonic()
                if isinstance(reply.content, (Answer, Left, Refused)):
                    self._answers[worker.rank] = reply.content
                    if isinstance(reply.content, Refused):
                        patience_with_others = min(patience_with_others, heard + LOCKSTEP)
                    continue
                worker.state.phase = ", ".join(filter(None, (self.doing, getattr(reply.content, "phase", ""))))
                yield Event(worker.rank, reply.content)
                heard = time.monotonic()  # the caller's time is not the ranks'
            self._check_life(heard)
            if time.monotonic() > patience_with_others:  # they wait for those that refused
                raise OutOfStep(str(self._refusal()))
            away = time.monotonic()
            yield None
            heard += time.monotonic() - away
        return self._result()

    def _result(self) -> list[Answer]:
        if refusal := self._refusal():
            raise refusal
        ended = [self._answers[worker.rank] for worker in self.workers]
        answers = [answer for answer in ended if isinstance(answer, Answer)]
        if len(answers) < len(ended):
            raise Cancelled(f"cancelled while {self.doing}")
        return answers

    def _refusal(self) -> MochiError | None:
        """The first that was heard; None where there is none."""
        return next((answer.error for answer in self._answers.values() if isinstance(answer, Refused)), None)

    def _receive(self, seconds: float) -> Iterator[tuple[Worker, Reply]]:
        """The workers' next messages, within so many seconds. Raises RanksFailed when one says that it has failed."""
        with selectors.PollSelector() as selector:  # which is no open file, of which a host may have many
            for worker in self._open:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            ready: list[Worker] = [key.data for key, _ in selector.select(seconds)]
        for worker in ready:
            try:
                reply = worker.channel.receive()
            except (EOFError, ConnectionError, FileNotFoundError):
                self._open.remove(worker)  # it is gone
                continue
            if isinstance(reply.content, Failed):
                worker.state.report = worker.state.report or reply.content
                raise RanksFailed
            yield worker, reply

    def _check_life(self, heard: float) -> None:
        """Raise RanksFailed where a worker has ended or stands still. heard: when there was a word on the request."""
        if not all(worker.is_alive for worker in self.workers):
            raise RanksFailed
        now = time.monotonic()
        silent = {worker: now - beat for worker, beat in zip(self.workers, self.board.beats, strict=True)}
        lifeless = {worker: seconds for worker, seconds in silent.items() if seconds > LIFELESS}
        if now - heard > self.patience:
            # Where all live, those that have not answered wait for something that does not come.
            waiting = [worker for worker in self.workers if worker.rank not in self._answers]
            self._blame(lifeless or dict.fromkeys(waiting, now - heard))
        if any(seconds > self.timeout for seconds in lifeless.values()):
            self._blame(lifeless)

    def _blame(self, silent: Mapping[Worker, float]) -> NoReturn:
        for worker, seconds in silent.items():
            worker.state.silent_for = seconds
        for worker in self.workers:
            worker.show_stacks()
        raise RanksFailed

    def find_out(self) -> None:
        """After RanksFailed: hear for GRACE seconds which of the ranks failed first, and how they ended."""
        end = time.monotonic() + GRACE
        while (left := end - time.monotonic()) > 0:
            with suppress(RanksFailed):
                for _ in self._receive(min(left, POLL)):
                    pass
        for worker in self.workers:
            worker.state.exitcode = worker.exitcode
