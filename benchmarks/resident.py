"""The memory that a process has allocated: its anonymous pages, without those of files that are mapped. Linux only."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.002
"""Seconds between two looks."""


def resident() -> int:
    """Bytes of anonymous memory that this process has now."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


@contextmanager
def watched() -> Iterator[list[int]]:
    """Yields a list whose only element is the most anonymous memory so far, in bytes."""
    peak, over = [resident()], threading.Event()

    def look() -> None:
        peak[0] = max(peak[0], resident())

    def watch() -> None:
        while not over.wait(EVERY):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
        look()  # what there is at the end counts, however short the block was
    finally:
        over.set()
        thread.join()
