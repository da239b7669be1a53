"""The owner's side of a group: it starts the workers, asks them, and ends them."""

import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ...errors import GroupError, MochiError
from ..machines import machine_of_each
from ..protocol import END, Answer, Ask, Request
from ..wire import BEAT
from .crew import Crew
from .failures import group_error
from .hearing import Hearing, OutOfStep, RanksFailed
from .processes import Processes
from .work import Work, finish

START_TIME = 180.0  # seconds for imports and the first meeting, if the ranks live

Result = TypeVar("Result")


class Group:
    """Processes, one for each entry of `devices` ("cuda:0", "cpu", ...), that answer requests together. A GPU that is
    named twice has two ranks, which is for tests: they talk over gloo.

    A group lives once: after a failure it is `closed`, and another has to be made. Raises GroupError, with the
    failed rank's words, whenever a rank fails; MochiError where a group cannot be. Not for several threads at once.

    Args:
        timeout: seconds without a sign of life, or without progress, after which a rank has failed.
        service: the class of which each rank has an object, as (module or file, class name); its `handle` is called
            with each request on all ranks.
        log_folder: where the logs of a failed group are kept; by default beside its private folder.
        threads: of each rank; by default its share of the processor's cores.
        place: where a person finds these settings, see ParallelSettings.
        crew: makes the workers; by default processes of this machine.
        machines: the number of the machine of each rank, whose ranks follow each other; by default all are on one.
    """

    def __init__(
        self,
        devices: Sequence[str],
        timeout: float = 600.0,
        service: tuple[str, str] = ("mochi.parallel.worker.service", "Rank"),
        log_folder: Path | None = None,
        threads: int | None = None,
        place: str = "",
        crew: Callable[[], Crew] | None = None,
        machines: Sequence[int] = (),
    ):
        self.devices, self.timeout, self.closed = tuple(devices), timeout, False
        self.machines = machine_of_each(machines, self.size)
        self._place = place
        self._number = 0  # of the newest request
        self._crew = (crew or partial(Processes, self.devices, threads, log_folder))()
        # Also when the group is forgotten, and when this process ends in good order. Else see watchdog.py.
        self._finalizer = weakref.finalize(self, end, self._crew, os.getpid())
        try:
            self._crew.start(service, timeout, self.machines)
            finish(self._answers(0, "starting", START_TIME))
        except BaseException:
            self.close(patience=0)
            raise

    @property
    def size(self) -> int:
        return len(self.devices)

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._crew.workers]

    def run(self, request: Request[Result], doing: str | None = None) -> list[Result]:
        """Ask all ranks and wait. Returns the result of each rank. Events are dropped."""
        return [answer.result for answer in finish(self.stream(request, doing))]

    def stream(self, request: Request[Result], doing: str | None = None) -> Work[list[Answer[Result]]]:
        """Ask all ranks. Returns the answer of each rank.

        A caller that stops (by an exception, or by closing the generator) cancels the request: all ranks leave it at
        the same step, keep what they have loaded, and take the next one.

        Args:
            request: anything that can be pickled and that the service knows.
            doing: the request in words, for errors; by default its own.
        """
        if self.closed:
            raise MochiError("this group has ended")
        self._number = number = self._number + 1
        answered = False
        try:
            self._send(Ask(number, request))
            answers = yield from self._answers(number, doing or request.doing, self.timeout)
            answered = True
            return answers
        finally:
            if not answered:
                self._crew.board.cancel(number)

    @property
    def alive(self) -> bool:
        """Whether the group can take requests. A rank can end, or be stopped, between two of them."""
        if self.closed or not all(worker.is_alive for worker in self._crew.workers):
            return False
        return time.monotonic() - min(self._crew.board.beats) < max(self.timeout, BEAT * 4)

    def close(self, patience: float = 5.0) -> None:
        """End the ranks, and whatever they left in the temporary folder. Those that do not go in time are killed."""
        if not self.closed:
            self.closed = True
            with suppress(OSError, RuntimeError, GroupError):
                self._crew.send(END)
            self._finalizer.detach()
            end(self._crew, os.getpid(), patience)

    def _send(self, ask: Ask) -> None:
        try:
            self._crew.send(ask)
        except GroupError:
            self.close(patience=0)
            raise
        except (OSError, RuntimeError) as error:  # some ranks have it and others do not
            self.close(patience=0)
            raise MochiError(
                f"A request could not be sent to the ranks: {error}. If neither shared memory (/dev/shm) nor the "
                "temporary folder has room: in a container, give it more (docker run --shm-size=8g, or --ipc=host), or "
                "name another folder in the environment variable TMPDIR. If it is open files: ulimit -n."
            ) from error

    def _answers(self, number: int, doing: str, patience: float) -> Work[list[Answer]]:
        hearing = Hearing(self._crew.workers, self._crew.board, number, doing, self.timeout, patience)
        try:
            return (yield from hearing.events())
        except OutOfStep:
            self.close(patience=0)
            raise
        except RanksFailed:
            hearing.find_out()
            logs = self._crew.keep_logs()
            error = group_error([worker.state for worker in self._crew.workers], self._place, logs)
            self.close(patience=0)
        raise error


def end(crew: Crew, owner: int, patience: float = 0.0) -> None:
    """End the workers, and whatever they left. Called at the end of a fork of the owner, it does nothing."""
    if os.getpid() == owner:
        crew.end(patience)
