"""Runs sections in a worker process, within their time, and collects what they found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .results import Line, is_failed
from .setting import Setting
from .worker import LOST, work

SPAWN = multiprocessing.get_context("spawn")
START_TIME = 120.0
"""Seconds that a worker has for its imports."""
GRACE = 5.0
"""Seconds beyond its own that a section has to end by itself, between two parts."""


class Runner:
    """A worker, which is replaced whenever something has failed in it, or it has warned: a device may not work any more
    in a process that has once made it fail, and kernels that could not be built are not tried again there."""

    def __init__(self, setting: Setting, package: str = __package__):
        self._setting, self._package = setting, package
        self._folder = TemporaryDirectory(prefix="mochi-gpu-")
        self._stacks = Path(self._folder.name, "stacks")
        self._stacks.touch()
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def run(self, name: str, seconds: float) -> Line:
        """One section, in so many seconds at most. Where the device does not answer any more, a new worker goes on."""
        started = time.monotonic()
        line: Line = {"section": name, "seconds": 0.0, "found": {}}
        warnings: list[str] = []
        while LOST in (end := self._hear(name, seconds - (time.monotonic() - started), line["found"])):
            line.setdefault(LOST, []).append(end[LOST])
            warnings += end.get("warnings", [])
            self._end()
        line |= end
        if warnings:
            line["warnings"] = warnings + end.get("warnings", [])
        line["seconds"] = round(time.monotonic() - started, 2)
        if is_failed(line) or "warnings" in line:
            self._end()
        return line

    def _start(self) -> None:
        if self._process is None:
            self._connection, theirs = SPAWN.Pipe()
            self._process = SPAWN.Process(target=work, args=(theirs, self._setting, self._package, self._stacks))
            self._process.start()
            theirs.close()
            if self._connection.poll(START_TIME):
                self._connection.recv()

    def _hear(self, name: str, seconds: float, found: dict[str, Any]) -> Line:
        """Puts each part into `found` as it comes, those left out that are there. Returns what else there is to say."""
        try:
            self._start()
            deadline = time.monotonic() + seconds + GRACE
            self._connection.send((name, seconds, list(found)))
            while self._connection.poll(max(0.0, deadline - time.monotonic())):
                part, figures, taken = self._connection.recv()
                if not part:
                    return figures
                found[part] = figures if not isinstance(figures, Mapping) else {**figures, "seconds": round(taken, 2)}
        except (EOFError, ConnectionError):
            self._process.join()
            return {"failed": f"its process ended ({self._process.exitcode})", "where": f"after {list(found)}"}
        return {"failed": f"no answer within {seconds + GRACE:.0f} s", "where": self._where()}

    def _where(self) -> str:
        """What the worker does now."""
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.5)
        return self._stacks.read_text(errors="replace")[-2000:]

    def _end(self) -> None:
        """At once if it is in the middle of something. Its ranks notice, and end by themselves."""
        if self._process is None:
            return
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(2.0)
        self._process.kill()
        self._process.join()
        self._process = None
