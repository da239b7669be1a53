"""What joins the owner and a worker: a connection for messages, and a small memory that both have mapped.

Nothing here imports torch, so that a worker can show that it lives before that takes its seconds.
"""

from __future__ import annotations

import importlib
import io
import mmap
import pickle
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

BEAT = 0.25
"""Seconds between two signs of life of a worker."""

PACKAGE = __name__.removesuffix(".parallel.wire")
"""The name of our package in this process: `mochi` in a worker, something made of a path under ComfyUI."""


class Channel:
    """One end of a connection, over which any picklable value crosses.

    Classes and functions of our package are found again under the name that it has on the other side. Tensors cross
    in shared memory, as torch.multiprocessing sends them; their number is limited by the open files of a process.
    """

    def __init__(self, connection: Connection):
        self._connection = connection

    def send(self, message: Any) -> None:
        buffer = io.BytesIO()
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(message)
        self._connection.send_bytes(buffer.getbuffer())

    def receive(self) -> Any:
        return _Unpickler(io.BytesIO(self._connection.recv_bytes())).load()

    def fileno(self) -> int:
        """Lets a selector wait for messages."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()


class _Pickler(ForkingPickler):
    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, (type, FunctionType)) and f"{value.__module__}.".startswith(f"{PACKAGE}."):
            return value.__module__.removeprefix(PACKAGE), value.__qualname__
        return None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, reference: tuple[str, str]) -> Any:
        module, name = reference
        return attrgetter(name)(importlib.import_module(PACKAGE + module))


class Board:
    """The newest request that is cancelled, and when each rank last showed that it lives.

    Both are in a file that the owner and all ranks have mapped into their memory. Reading and writing takes no message,
    so it works while a rank computes.
    """

    FILE = "board"

    def __init__(self, folder: Path):
        with open(folder / self.FILE, "r+b") as file:
            self._values = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")

    @classmethod
    def create(cls, folder: Path, ranks: int) -> Board:
        """Raises OSError where there is no room for the file."""
        (folder / cls.FILE).write_bytes(bytes(8 * (1 + ranks)))
        board = cls(folder)
        for rank in range(ranks):
            board.beat(rank)
        return board

    @property
    def cancelled(self) -> int:
        """The number of the newest request that the owner has cancelled, and with it all before."""
        return int(self._values[0])

    def cancel(self, request: int) -> None:
        self._values[0] = max(self._values[0], request)

    @property
    def beats(self) -> list[float]:
        """When each rank last showed that it lives, by CLOCK_MONOTONIC, which is the same in all processes."""
        return [float(beat) for beat in self._values[1:]]

    def beat(self, rank: int) -> None:
        self._values[1 + rank] = time.monotonic()
