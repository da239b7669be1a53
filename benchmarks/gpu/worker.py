"""The process in which sections run, one after the other: what ends or hangs it does not end the kit."""

import faulthandler
import gc
import importlib
import logging
import os
import signal
import time
import traceback
from collections.abc import Collection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from .measuring import synchronize
from .results import is_failed
from .setting import Setting

LOST = "the device does not answer after"

LINES = 6
"""Of a traceback, its end."""


def work(connection: Connection, setting: Setting, package: str, stacks: Path) -> None:
    """Says that it is ready, then answers names of sections, each with the seconds that it has and the parts to leave
    out, until it is told None.

    The answers are (part, figures, seconds) as each part ends, then ("", what else there is to say, seconds). package:
    whose modules are the sections. stacks: where it writes what it is doing when it gets SIGUSR1.
    """
    os.dup2(2, 1)  # libraries print: standard output is the kit's own
    file = stacks.open("w")
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
    told = Told()
    logging.getLogger().addHandler(told)
    torch.manual_seed(0)
    connection.send("ready")
    while (asked := connection.recv()) is not None:
        name, allowed, left_out = asked
        started, told.lines = time.monotonic(), []
        end = run(connection, setting, f"{package}.{name}", started + allowed, left_out)
        give_back(setting)
        connection.send(("", end | ({"warnings": told.lines} if told.lines else {}), time.monotonic() - started))


def run(
    connection: Connection, setting: Setting, module: str, deadline: float, left_out: Collection[str]
) -> dict[str, Any]:
    """The parts of a section, each sent as it ends. Returns why it ended before its last part, if it did: LOST, with
    the part that failed, where the device does nothing any more in this process."""
    try:
        section = importlib.import_module(module).section(setting)
        with torch.inference_mode():
            for part, measure in section:
                if part in left_out:
                    continue
                if time.monotonic() > deadline:
                    return {"skipped": f"{part} and what follows: no time is left"}
                found, taken = measured(setting, measure)
                connection.send((part, found, taken))
                if is_failed(found) and not answers(setting.device):
                    return {LOST: part}
    except Exception as problem:
        return failure(problem)
    return {}


def measured(setting: Setting, measure: Any) -> tuple[Any, float]:
    started = time.monotonic()
    try:
        found = measure()
        synchronize(setting.device)
    except Exception as problem:
        found = failure(problem)
    return found, time.monotonic() - started


def answers(device: torch.device) -> bool:
    """Whether it still does: after an access to memory that is not there all that follows fails, whatever it is."""
    try:
        synchronize(device)
    except Exception:
        return False
    return True


def failure(problem: Exception) -> dict[str, Any]:
    """What went wrong, in one line, and where."""
    lines = str(problem).strip().splitlines() or [""]
    where = traceback.format_exception(problem)[-LINES:]
    return {"failed": f"{type(problem).__name__}: {lines[0]}", "where": "".join(where)[-2000:]}


def give_back(setting: Setting) -> None:
    """Memory that the section's tensors had, for the next one. After some errors a device does nothing any more."""
    gc.collect()
    if setting.cuda:
        try:
            torch.cuda.empty_cache()
        except RuntimeError as problem:
            logging.getLogger(__name__).warning("The device does not answer any more: %s", problem)


class Told(logging.Handler):
    """Collects what is warned of, such as a kernel that does not run."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}"[:500])
