"""A worker's thread that shows that the process lives, and ends it when its owner is gone. Imports no torch."""

import os
import select
import shutil
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection

from ..wire import BEAT, Board


class Watchdog(threading.Thread):
    """Beats on the board until the owner is gone.

    Then it removes the owner's temporary folders, which nobody else will, and ends this process at once: the main
    thread may be waiting in a collective for ever.

    Args:
        connection: to the owner, which hangs up when the owner ends. It stays open as long as this process lives: its
            end, as the worker ends in good order, would look like a hang-up.
        owner: its process id.
        folders: its temporary folders.
    """

    def __init__(self, rank: int, board: Board, connection: Connection, owner: int, folders: Sequence[str]):
        super().__init__(name="watchdog", daemon=True)
        self._rank, self._board, self._owner, self._folders = rank, board, owner, folders
        self._connection = connection
        self._hang_up = select.poll()
        self._hang_up.register(connection, 0)  # no events: a hang-up is always reported

    def run(self) -> None:
        # The connection tells at once. But a program that the owner started could hold a copy of its end; a process
        # whose parent is gone has another parent.
        while not self._hang_up.poll(1000 * BEAT) and os.getppid() == self._owner:
            self._board.beat(self._rank)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
