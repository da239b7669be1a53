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

    def run(self) -> None:
        while not self._owner_is_gone(1000 * BEAT):
            self._board.beat(self._rank)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    def leave(self) -> None:
        """The last call of the main thread. It returns only if the owner still lives.

        Else the end is left to this thread. It would end together with the main thread, and the folders would stay.
        """
        if self._owner_is_gone(0):
            self.join()

    def _owner_is_gone(self, milliseconds: float) -> bool:
        # The connection tells at once. But a program that the owner started could hold a copy of its end; a process
        # whose parent is gone has another parent.
        hang_up = select.poll()  # one a call, for two threads cannot wait for the same
        hang_up.register(self._connection, 0)  # no events: a hang-up is always reported
        return bool(hang_up.poll(milliseconds)) or os.getppid() != self._owner
