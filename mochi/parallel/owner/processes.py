"""A crew of processes on this machine, which meet in a private folder."""

import multiprocessing
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..protocol import FileMeeting, Start
from .environment import rank_environment, threads_per_rank
from .folder import keep_logs, private_folder
from .process import Worker, check_platform, stop


class Processes:
    """See Crew. Nothing of it listens beyond the loopback.

    Args:
        devices: of the ranks, as torch calls them.
        threads: of each rank; by default its share of the processor's cores.
        log_folder: where the logs of a failed group are kept; by default beside its private folder.
    """

    def __init__(self, devices: Sequence[str], threads: int | None = None, log_folder: Path | None = None):
        check_platform()
        self._devices, self._log_folder = devices, log_folder
        self._threads = threads or threads_per_rank(len(devices))
        self.folder, self.board = private_folder(len(devices))
        self.workers: list[Worker] = []

    def start(self, service: tuple[str, str], timeout: float, machines: Sequence[int]) -> None:
        environment = rank_environment(os.environ, self.folder, self._threads)
        meeting = FileMeeting(self.folder, bytes(multiprocessing.current_process().authkey))
        for rank, device in enumerate(self._devices):
            self.workers.append(worker := Worker(rank, device, self.folder, environment))
            start = Start(rank, self._devices, self._threads, timeout, service, meeting, device, machines)
            with suppress(ConnectionError):  # the worker is gone; its log tells why
                worker.channel.send(start)

    def send(self, message: Any) -> None:
        for worker in self.workers:
            with suppress(ConnectionError):  # a worker is gone; who waits for its answer finds out which and why
                worker.channel.send(message)

    def keep_logs(self) -> str:
        logs = keep_logs(self.folder, self._log_folder)
        for worker in self.workers:
            worker.state.log = logs / f"rank{worker.rank}.log"
        return str(logs)

    def end(self, patience: float) -> None:
        stop(self.workers, patience)
        for worker in self.workers:
            worker.channel.close()
        shutil.rmtree(self.folder, ignore_errors=True)
