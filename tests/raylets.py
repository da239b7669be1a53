"""A Ray cluster on this machine, in a process of its own. Each of its raylets counts as a machine.

Run as a file it is that process: it reads commands as lines, and answers each with a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or sys.platform != "linux",
    reason="several machines need Ray, which is not installed (pip install ray)",
)
CACHE = "cache"  # the user's cache of the machines, below their temporary folder
PLENTY = 200_000_000  # bytes of shared memory for what crosses


class Raylets:
    """A cluster that runs.

    Attributes:
        folder: the temporary folder of the raylets and of the processes that they start.
        address: of the cluster.
        pids: of the raylets, by their numbers.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path):
        self._process, self.folder = process, folder
        self.pids: dict[int, int] = {}
        self._count = 0
        self.add()
        self.address = str(self._ask("address"))

    def add(self) -> int:
        """Start a raylet. Returns its number; that of the cluster's head is 0."""
        number, self._count = self._count, self._count + 1
        self.pids[number] = int(self._ask("add"))
        return number

    def kill(self, number: int) -> None:
        """End a raylet, and all that belongs to it, as if its machine had lost power."""
        self._ask(f"kill {self.pids.pop(number)}")

    def number_of(self, process: int) -> int:
        """The raylet that has started a process."""
        parents = {parent.pid for parent in psutil.Process(process).parents()}
        return next(number for number, pid in self.pids.items() if pid in parents)

    def left_over(self) -> list[Path]:
        """What processes have left in the temporary folder, beside Ray's own files and the user's cache."""
        return [path for path in self.folder.iterdir() if path.name not in ("ray", CACHE)]

    def workers(self) -> list[psutil.Process]:
        """The processes that hold actors of ours."""
        below = [child for pid in self.pids.values() for child in psutil.Process(pid).children(recursive=True)]
        return [process for process in below if "ray::Shell" in " ".join(_command(process))]

    def _ask(self, line: str) -> str | int:
        print(line, file=_pipe(self._process.stdin), flush=True)
        answer = _pipe(self._process.stdout).readline()
        assert answer, "the cluster's process has ended"
        return json.loads(answer)


@contextmanager
def raylets(count: int) -> Iterator[Raylets]:
    """So many raylets with one processor each. Nothing of them stays."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short: sockets are in it
        cache = str(Path(folder, CACHE))
        own = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        environment = {**os.environ, "TMPDIR": folder, "XDG_CACHE_HOME": cache, **own}
        command = [sys.executable, __file__, "serve"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes) as process:
            try:
                cluster = Raylets(process, Path(folder))
                for _ in range(1, count):
                    cluster.add()
                yield cluster
            finally:
                _pipe(process.stdin).close()
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def serve() -> None:
    """The process of a cluster, until its standard input ends."""
    from ray.cluster_utils import Cluster

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints
    cluster, nodes = Cluster(), {}

    def add() -> int:
        node = cluster.add_node(num_cpus=1, object_store_memory=PLENTY, include_dashboard=False)
        pid = node.all_processes["raylet"][0].process.pid
        nodes[pid] = node
        return pid

    for line in sys.stdin:
        command, *rest = line.split()
        if command == "address":
            answer = cluster.address
        elif command == "add":
            answer = add()
        else:
            cluster.remove_node(nodes.pop(int(rest[0])), allow_graceful=False)
            answer = 0
        print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
