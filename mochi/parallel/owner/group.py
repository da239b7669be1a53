"""The owner's side of a group: it starts the ranks, asks them, hears them, and ends them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ...errors import Cancelled, MochiError
from ..worker.watchdog import BEAT
from .environment import rank_environment, threads_per_rank
from .failures import RankState, group_error
from .process import SPAWN, CleanProcess, check_platform, is_alive, stop

POLL = 0.05  # seconds between two looks at the caller's wish to cancel
GRACE = 0.5  # seconds for the ranks to say which of them failed first
LOCKSTEP = 10.0  # seconds within which all ranks refuse a request that one refuses
START_TIME = 180.0  # seconds for imports and the first meeting, if the ranks live
LIFELESS = 2.0  # seconds without a beat, which comes four times a second, that tell a stopped process from a slow one
KEPT_LOGS = 5  # of failed groups
ENTRY = Path(__file__).parents[1] / "worker" / "main.py"

Answer = dict[str, Any]
"""Of each rank: result, seconds, memory (bytes)."""


class Event(NamedTuple):
    """What a rank tells while a request runs."""

    rank: int
    payload: dict[str, Any]


class Group:
    """Processes, one for each entry of `devices` ("cuda:0", "cpu", ...), that answer requests together. A GPU that is
    named twice has two ranks, which is for tests: they talk over gloo.

    service: the class of which each rank has an object, as (module or file, class name); a request is one of its
    methods, called by name on all ranks with the same arguments. timeout: seconds without a sign of life, or without
    progress, after which a rank has failed. log_folder: where the logs of a failed group are kept (its own private
    folder by default).

    A group lives once: after a failure it is `closed`, and another has to be made. Raises GroupError, with the
    failed rank's words, whenever a rank fails; MochiError where a group cannot be. Not for several threads at once.
    """

    def __init__(
        self,
        devices: Sequence[str],
        timeout: float = 600.0,
        service: tuple[str, str] = ("mochi.parallel.worker.service", "Rank"),
        log_folder: Path | None = None,
        threads: int | None = None,
    ):
        check_platform()
        self.devices = tuple(devices)
        self.timeout = timeout
        self.closed = False
        self._request = 0
        self._cancel = SPAWN.RawValue("q", -1)
        self._beats = SPAWN.RawArray("d", [time.monotonic()] * len(self.devices))
        self._folder = _private_folder()
        self._log_folder = log_folder
        self._connections: list[Connection] = []
        self._processes: list[CleanProcess] = []
        self._states: list[RankState] = []
        # Also when the group is forgotten, and when this process ends in good order; see watch.py for the other ways.
        self._finalizer = weakref.finalize(self, _end, self._processes, self._connections, self._folder)
        try:
            for rank in range(len(self.devices)):
                self._start(rank, service, threads or threads_per_rank(len(self.devices)))
            self._exhaust(self._answers("starting", START_TIME))
        except BaseException:
            self.close(patience=0)
            raise

    @property
    def size(self) -> int:
        return len(self.devices)

    @property
    def pids(self) -> list[int]:
        return [state.pid for state in self._states]

    def _start(self, rank: int, service: tuple[str, str], threads: int) -> None:
        ours, theirs = SPAWN.Pipe()
        state = RankState(rank, self.devices[rank], 0, self._folder / f"rank{rank}.log")
        start = {
            "rank": rank,
            "size": self.size,
            "device": self.devices[rank],
            "devices": self.devices,
            "threads": threads,
            "timeout": self.timeout,
            "connection": theirs,
            "cancel": self._cancel,
            "beats": self._beats,
            "owner": os.getpid(),
            "folder": str(self._folder),
            "folders_of_owner": [str(self._folder), get_temp_dir()],
            "log": str(state.log),
            "service": service,
            "environment": rank_environment(os.environ, self._folder, threads),
        }
        process = CleanProcess(ENTRY, start, self._folder, f"mochi-rank{rank}")
        self._connections.append(ours)
        process.start()
        theirs.close()  # else its end would never be seen
        state.pid = process.pid
        self._processes.append(process)
        self._states.append(state)

    def run(self, method: str, /, *, doing: str = "", **arguments: Any) -> list[Any]:
        """Call a method on all ranks and wait. Returns the result of each rank. Events are dropped."""
        return [answer["result"] for answer in self._exhaust(self.stream(method, doing=doing, **arguments))]

    @staticmethod
    def _exhaust(events: Iterator[Event | None]) -> list[Answer]:
        while True:
            try:
                next(events)
            except StopIteration as end:
                return end.value

    def stream(self, method: str, /, *, doing: str = "", **arguments: Any) -> Iterator[Event | None]:
        """Call a method on all ranks; yields their events as they come, and None at least every POLL seconds, so that
        the caller can look whether it is wanted still. Returns (as a generator does) the Answer of each rank.

        A caller that stops (by an exception, or by closing the generator) cancels the request: all ranks leave it at
        the same step, keep what they have loaded, and take the next one.
        """
        if self.closed:
            raise MochiError("this group has ended")
        self._request = request = self._request + 1
        answered = False
        try:
            self._send((request, method, arguments))
            answers = yield from self._answers(doing or method, self.timeout)
            answered = True
            return answers
        finally:
            if not answered:
                self._cancel.value = max(self._cancel.value, request)

    @property
    def alive(self) -> bool:
        """Whether the group can take requests. A rank can end, or be stopped, between two of them."""
        if self.closed or not all(map(is_alive, self._processes)):
            return False
        return time.monotonic() - min(self._beats) < max(self.timeout, BEAT * 4)

    def close(self, patience: float = 5.0) -> None:
        """End the ranks, and whatever they left in the temporary folder. Those that do not go in time are killed."""
        if not self.closed:
            self.closed = True
            for connection in self._connections:
                with suppress(OSError):
                    connection.send((0, None, {}))
            _, end, parts, _ = self._finalizer.detach()
            end(*parts, patience)

    def _send(self, message: tuple) -> None:
        try:
            for connection in self._connections:
                with suppress(ConnectionError):  # a rank is gone: which and why, the caller finds out
                    connection.send(message)
        except (OSError, RuntimeError) as error:  # some ranks have it and others do not
            self.close(patience=0)
            raise MochiError(
                f"A request could not be sent to the ranks: {error}. If that is shared memory (/dev/shm), a container "
                "needs more: docker run --shm-size=8g. If it is open files, raise the limit: ulimit -n."
            ) from error

    def _answers(self, doing: str, patience: float) -> Iterator[Event | None]:
        """Hear the ranks until each has answered the current request."""
        for state in self._states:
            state.phase, state.report, state.silent_for = doing, None, 0.0
        answers: dict[int, Answer] = {}
        refusal: str | None = None
        cancelled = False
        deadline = heard = time.monotonic()
        while len(answers) < self.size:
            for connection in wait([*self._connections, *self._sentinels()], timeout=POLL):
                message = self._receive(connection)
                if message is None:
                    continue
                rank, request, kind, payload = message
                if kind == "failed":
                    self._states[rank].report = payload
                    self._fail()
                if request != self._request:
                    continue  # left over from a request that was cancelled
                heard = time.monotonic()
                if kind == "event":
                    self._states[rank].phase = f"{doing}, {payload['phase']}" if "phase" in payload else doing
                    away = time.monotonic()
                    yield Event(rank, payload)
                    heard += time.monotonic() - away  # the caller's time is not the ranks'
                    continue
                answers[rank] = payload
                cancelled = cancelled or kind == "cancelled"
                if kind == "refused" and refusal is None:
                    refusal, deadline = payload, heard + LOCKSTEP
            now = time.monotonic()
            if any(not is_alive(process) for process in self._processes):
                self._fail()
            lifeless = {rank: now - beat for rank, beat in enumerate(self._beats) if now - beat > LIFELESS}
            if any(seconds > self.timeout for seconds in lifeless.values()):
                self._fail(lifeless)
            if now - heard > patience:
                # Where all live, those that have not answered wait for something that does not come.
                self._fail(lifeless or dict.fromkeys(set(range(self.size)) - answers.keys(), now - heard))
            if refusal is not None and now > deadline:  # not by all, so the others wait for those that did
                self.close(patience=0)
                raise MochiError(refusal)
            away = time.monotonic()
            yield None
            heard += time.monotonic() - away
        if refusal is not None:
            raise MochiError(refusal)
        if cancelled:
            raise Cancelled(f"cancelled while {doing}")
        return [answers[rank] for rank in range(self.size)]

    def _sentinels(self) -> list[int]:
        return [process.sentinel for process in self._processes]

    def _receive(self, ready: Any) -> tuple[int, int, str, Any] | None:
        """(rank, request, kind, payload) of a connection that is ready; None of one whose rank is gone."""
        if ready not in self._connections:
            return None  # a sentinel
        try:
            return (self._connections.index(ready), *ready.recv())
        except (EOFError, ConnectionError, FileNotFoundError):
            return None

    def _fail(self, silent: Mapping[int, float] | None = None) -> NoReturn:
        """Find out who is to blame, stop all ranks and raise GroupError."""
        for rank, seconds in (silent or {}).items():
            self._states[rank].silent_for = seconds
        if silent:
            for process in filter(is_alive, self._processes):
                os.kill(process.pid, signal.SIGUSR1)  # its log then says where it is
        end = time.monotonic() + GRACE
        while (left := end - time.monotonic()) > 0:
            heard = wait(self._connections, timeout=min(left, POLL))
            for message in filter(None, map(self._receive, heard)):
                if message[2] == "failed" and self._states[message[0]].report is None:
                    self._states[message[0]].report = message[3]
        for state, process in zip(self._states, self._processes, strict=True):
            state.exitcode = process.exitcode
        logs = _keep_logs(self._folder, self._log_folder)
        for state in self._states:
            state.log = logs / state.log.name
        error = group_error(self._states)
        self.close(patience=0)
        raise error


def _private_folder() -> Path:
    """A fresh folder that only this user can enter. Raises MochiError where there is no room for one."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="mochi-group-"))
        (folder / "room").write_bytes(b"room")
        (folder / "room").unlink()
        return folder
    except OSError as error:
        raise MochiError(
            f"The ranks need a temporary folder to meet in, and {tempfile.gettempdir()} does not serve: {error}. Free "
            "some room there, or name another folder in the environment variable TMPDIR."
        ) from error


def _keep_logs(folder: Path, kept: Path | None) -> Path:
    """Copy the logs of a failed group to where they stay: below `kept`, or beside the private folder."""
    place = (kept or folder.parent) / f"{folder.name}-logs"
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.log"):
            shutil.copy(file, place)
        older = sorted(place.parent.glob("mochi-group-*-logs"), key=lambda path: path.stat().st_mtime)
        for folder_of_old in older[:-KEPT_LOGS]:
            shutil.rmtree(folder_of_old, ignore_errors=True)
    return place


def _end(processes: list[CleanProcess], connections: list[Connection], folder: Path, patience: float = 0.0) -> None:
    stop(processes, patience)
    for connection in connections:
        connection.close()
    shutil.rmtree(folder, ignore_errors=True)
