"""A rank's thread that shows that the process lives, and ends it when its owner is gone. Imports no torch."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import MutableSequence, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait

BEAT = 0.25
"""Seconds between signs of life."""


class Watch(threading.Thread):
    """Writes the time into `beats[rank]` (CLOCK_MONOTONIC, the same in all processes), until the owner is gone.

    Then it removes the owner's temporary folders, which nobody else will, and ends this process at once: the main
    thread may be waiting in a collective for ever.
    """

    def __init__(self, rank: int, beats: MutableSequence[float], folders: Sequence[str], owner: int):
        super().__init__(name="watch", daemon=True)
        self._rank, self._beats, self._folders, self._owner = rank, beats, folders, owner

    def run(self) -> None:
        sentinel = parent_process().sentinel
        # The sentinel tells at once; but it is an open pipe's end, of which a program that the owner started could
        # hold a copy. A process whose parent is gone has another parent.
        while not wait([sentinel], timeout=BEAT) and os.getppid() == self._owner:
            self._beats[self._rank] = time.monotonic()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
