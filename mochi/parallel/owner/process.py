"""A worker as its owner sees it: a process that starts clean, and the channel to it.

Nothing of this process reaches a worker by itself. Under ComfyUI that would be the whole server, which would parse
arguments, run every pack's start-up script and open the first GPU in each worker. So a worker is a fresh interpreter
that runs a file.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.util import get_temp_dir
from pathlib import Path

from ...errors import MochiError
from ..wire import Channel
from .failures import RankState

MAIN = Path(__file__).parents[1] / "worker" / "main.py"

LAST_BREATH = 10.0
"""Seconds within which killed processes end."""

log = logging.getLogger(__name__)


class Worker:
    """A process of the group, in the group's private folder, where its output goes to `rankN.log`.

    The file that it runs gets as arguments the number of the file descriptor of its end of the channel, its rank,
    the process id of this owner, and the folders to remove when the owner is gone.

    Attributes:
        state: what was heard of it.
        channel: to talk to it.
    """

    def __init__(self, rank: int, device: str, folder: Path, environment: Mapping[str, str], file: Path = MAIN):
        self.rank = rank
        path = folder / f"rank{rank}.log"
        self.state = RankState(rank, device, path)
        ours, theirs = Pipe()
        descriptor = theirs.fileno()
        told = map(str, (descriptor, rank, os.getpid(), folder, get_temp_dir()))
        path.touch(0o600)  # also where it is kept, for paths are in it
        with path.open("wb") as log_file, theirs:  # closed here, or nobody would see it close there
            self._process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-u", str(file), *told],
                pass_fds=[descriptor],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
            )
        self.channel = Channel(ours, folder)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs; below zero the number of the signal that ended it."""
        return self._process.poll()

    @property
    def is_alive(self) -> bool:
        return self.exitcode is None

    def show_stacks(self) -> None:
        """Have it write where each of its threads is into its log."""
        self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> None:
        """Returns when it has ended, or after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


def _interpreter_flags() -> list[str]:
    """The flags of this interpreter that decide which packages it finds."""
    return ["-s"] * sys.flags.no_user_site + ["-E"] * sys.flags.ignore_environment


def check_platform() -> None:
    """Raise MochiError where processes cannot be started this way."""
    if sys.platform == "win32":
        raise MochiError(
            "Spreading a generation over several processes needs Linux (NCCL, the library by which GPUs talk to each "
            "other, is not there on Windows; WSL works). Choose 1 GPU."
        )


def stop(workers: Sequence[Worker], patience: float) -> None:
    """Wait so many seconds for the workers to end, then kill those that have not.

    A process that sleeps in a call of a driver does not end even then. The log names it, and nobody waits for it.
    """
    _wait(workers, patience)
    for worker in workers:
        if worker.is_alive:
            worker.kill()
    _wait(workers, LAST_BREATH)
    for worker in workers:
        if worker.is_alive:
            log.warning(
                "mochi-rank%d (process %d) was killed and has not gone: its GPU may stay taken", worker.rank, worker.pid
            )


def _wait(workers: Iterable[Worker], seconds: float) -> None:
    end = time.monotonic() + seconds
    for worker in workers:
        worker.wait(max(0.0, end - time.monotonic()))
