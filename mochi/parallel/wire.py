"""What joins the owner and a worker: a connection for messages, and a small memory that both have mapped.

Nothing here imports torch, so that a worker can show that it lives before that takes its seconds.
"""

from __future__ import annotations

import io
import logging
import mmap
import os
import pickle
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..crossing import Pickler, decode

log = logging.getLogger(__name__)

BEAT = 0.25
"""Seconds between two signs of life of a worker."""


class Channel:
    """One end of a connection, over which any picklable value crosses.

    Classes and functions of our package are found again under the name that it has on the other side. Tensors cross
    in shared memory, as torch.multiprocessing sends them; their number is limited by the open files of a process. Where
    that fails, as with the small /dev/shm of a container, they cross in files.

    folder: for these files, seen by both sides. Who receives a tensor removes its file.
    """

    def __init__(self, connection: Connection, folder: Path):
        self._connection, self._folder = connection, folder

    def send(self, message: Any) -> None:
        """Raises OSError where neither shared memory nor the folder has room."""
        buffer = io.BytesIO()
        _SharingPickler(buffer, self._folder).dump(message)
        self._connection.send_bytes(buffer.getbuffer())

    def receive(self) -> Any:
        return decode(self._connection.recv_bytes())

    def fileno(self) -> int:
        """Lets a selector wait for messages."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()


class _SharingPickler(Pickler):
    def __init__(self, buffer: io.BytesIO, folder: Path):
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self._folder = folder

    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")  # imported, if there are tensors
        if torch is None or not isinstance(value, torch.UntypedStorage) or value.device.type != "cpu":
            return NotImplemented
        try:
            return self.dispatch_table[torch.UntypedStorage](value)
        except (OSError, RuntimeError) as error:
            _tell(self._folder, error)
            return _take, (_put(value, self._folder), value.nbytes())


_told: set[Path] = set()


def _tell(folder: Path, error: Exception) -> None:
    """Log, once for a folder, why tensors cross in it."""
    if folder not in _told:
        _told.add(folder)
        log.warning(
            "Tensors cross between processes in files in %s, which takes longer, since shared memory (/dev/shm) does "
            "not serve: %s. In a container, give it more: docker run --shm-size=8g, or --ipc=host.",
            folder,
            error,
        )


def _put(storage: Any, folder: Path) -> str:
    """Write the memory of tensors into a new file. Returns its path."""
    import torch

    number, path = tempfile.mkstemp(prefix="tensors-", dir=folder)
    try:
        with open(number, "wb") as file:
            file.write(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data)
    except OSError:
        os.unlink(path)
        raise
    return path


def _take(path: str, nbytes: int) -> Any:
    """The memory of tensors, mapped from its file, which is removed. It takes room there until nobody has it."""
    import torch

    storage = torch.UntypedStorage.from_file(path, False, nbytes)
    os.unlink(path)
    return storage


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
