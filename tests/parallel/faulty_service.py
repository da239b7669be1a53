"""A service of ranks that can go wrong in each of its methods; used by test_group.py."""

import atexit
import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from mochi.errors import Cancelled, MochiError
from mochi.parallel.protocol import Request, StepDone
from mochi.parallel.wire import BEAT
from mochi.parallel.worker.service import Rank


class Faulty(Rank):
    """The real service, with a fault that a test can plan, and some methods of its own."""

    planned: tuple[int, str, str] | None = None

    def handle(self, request: Request | tuple[str, dict[str, Any]]) -> Any:
        if isinstance(request, tuple):
            method, arguments = request
            return getattr(self, method)(**arguments)
        if self.planned is not None and self.planned[:2] == (self.context.rank, type(request).__name__):
            fail(self.planned[2])
        return super().handle(request)

    def fault(self, rank: int, request: str, kind: str) -> None:
        """Plan what happens at the next request of this type on `rank`: "raise", "kill" or "stop"."""
        self.planned = (rank, request, kind)

    def modules(self) -> list[str]:
        return sorted(sys.modules)

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def threads(self) -> int:
        return torch.get_num_threads()

    def echo(self, x):
        return x

    def add_up(self, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    def steps(self, count: int) -> int:
        """Takes count steps of 20 ms, and says how many it took."""
        for step in range(count):
            if self.context.cancelled():
                self.left_at = step
                raise Cancelled
            time.sleep(0.02)
            self.context.emit(StepDone(step + 1, count, 0.02, 0))
        return count

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def terminated_program(self) -> int:
        """The exit status of a program that this rank starts and then terminates."""
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        program.terminate()
        return program.wait(30)

    def where_left(self) -> int:
        """The step at which `steps` was cancelled."""
        return self.left_at

    def refuse(self, ranks: tuple[int, ...]) -> None:
        if self.context.rank in ranks:
            raise MochiError("the cfg is too blue")
        dist.barrier()


class FaultyStart(Rank):
    """Fails while it is made, on rank 1, as the environment variable MOCHI_TEST_FAULT says."""

    def __init__(self, context):
        super().__init__(context)
        if context.rank == 1:
            fail(os.environ["MOCHI_TEST_FAULT"])
        dist.barrier()


class SlowEnd:
    """Has a process that takes its time to end, after it has let go of all it had."""

    def __init__(self, context):
        atexit.register(time.sleep, 4 * BEAT)

    def handle(self, request: Any) -> Any:
        return request


def fail(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("a planned failure")
    if kind == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    os.kill(os.getpid(), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
