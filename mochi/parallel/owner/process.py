"""A child process that starts clean.

Python's spawn method lets a child import the parent's main module first. Under ComfyUI that is the whole server: it
would parse arguments, run every pack's start-up script and open the first GPU in each child, seconds long. And
ComfyUI loads a pack under a name made from its path, which no child can import. So the child is told nothing of the
parent's main module, path or arguments, and runs a file instead of a pickled function.
"""

from __future__ import annotations

import logging
import runpy
import sys
import time
import types
from collections.abc import Sequence
from multiprocessing import spawn
from multiprocessing.process import BaseProcess, _children
from pathlib import Path
from typing import Any

import torch.multiprocessing

from ...errors import MochiError

SPAWN = torch.multiprocessing.get_context("spawn")

LAST_BREATH = 10.0
"""Seconds in which processes go that were killed."""

log = logging.getLogger(__name__)

KEPT = ("log_to_stderr", "authkey", "name", "start_method")


class _CleanSpawn:
    """multiprocessing.spawn, with preparation data that leave the child as a fresh interpreter starts."""

    def __init__(self, folder: Path):
        self._folder = str(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(spawn, name)

    def get_preparation_data(self, name: str) -> dict[str, Any]:
        data = spawn.get_preparation_data(name)
        return {**{key: data[key] for key in KEPT if key in data}, "sys_argv": [name], "dir": self._folder}


class CleanProcess(SPAWN.Process):
    """Runs `file` with the global `start` in a new interpreter, in `folder`; sees nothing of this process's modules."""

    def __init__(self, file: Path, start: dict[str, Any], folder: Path, name: str):
        arguments = (str(file), {"start": start}, name)
        super().__init__(target=runpy.run_path, args=arguments, name=name, daemon=True)
        self._spawn = _CleanSpawn(folder)

    @staticmethod
    def _Popen(process: CleanProcess) -> Any:
        from multiprocessing import popen_spawn_posix as posix

        # The launcher looks `spawn` up among its module's names: it gets ours, and no other process is touched.
        launch = types.FunctionType(posix.Popen._launch.__code__, {**vars(posix), "spawn": process._spawn})
        launcher = type("CleanPopen", (posix.Popen,), {"_launch": launch})
        return launcher(process)

    def __reduce__(self) -> tuple:
        # The child unpickles an ordinary process: it cannot import this class.
        state = {key: value for key, value in self.__dict__.items() if key != "_spawn"}
        return _restored, (SPAWN.Process,), state


# Found by the child under the name of a module that every Python has.
_restored = object.__new__


def check_platform() -> None:
    """Raise MochiError where processes cannot be started this way."""
    if sys.platform == "win32":
        raise MochiError(
            "Spreading a generation over several processes needs Linux (NCCL, the library by which GPUs talk to each "
            "other, is not there on Windows; WSL works). Choose 1 GPU."
        )


def is_alive(process: BaseProcess) -> bool:
    """Whether a process runs; a sentinel alone can fire early, an exit code cannot."""
    return process.exitcode is None


def stop(processes: Sequence[BaseProcess], patience: float) -> None:
    """Wait so many seconds for the processes to end, then kill those that have not.

    A process that sleeps in a call of a driver does not go even then. The log tells of it, and nobody waits for it.
    """
    _join(processes, patience)
    for process in filter(is_alive, processes):
        process.kill()
    _join(processes, LAST_BREATH)
    for process in processes:
        if is_alive(process):
            log.warning(
                "%s (process %d) was killed and has not gone: its GPU may stay taken", process.name, process.pid
            )
            _children.discard(process)  # else this process would wait for it at its own end
        else:
            process.close()


def _join(processes: Sequence[BaseProcess], seconds: float) -> None:
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
