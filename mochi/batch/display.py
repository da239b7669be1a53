"""The progress of many videos: a bar for all, a line for each machine, and what went wrong, as it is known."""

import shutil
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from ..errors import MochiError
from .job import Job
from .requests import Made
from .site import Place


class Display:
    """A Watcher that draws on standard error, and prints the paths of videos on standard output; a context manager.

    Where standard error is no terminal, there is a line for each video and each trouble instead.

    Args:
        total: how many videos are to be made.
        source: the file whose lines they are.
    """

    def __init__(self, total: int, source: Path | None = None):
        self._total, self._source = total, source
        self._lock = threading.Lock()
        self._lines: list[tuple[str, bool]] = []  # to be printed: text, and whether on standard output
        self._doing: dict[str, dict[str, str]] = {}  # by machine and place
        self._made: dict[str, int] = {}  # by machine
        self._ended = 0
        self._bars: list[tqdm] = []
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> "Display":
        if self._is_terminal:
            self._bars.append(tqdm(total=self._total, desc="videos", unit="video", smoothing=0))
        return self

    def __exit__(self, *_: object) -> None:
        self.draw()
        for bar in reversed(self._bars):
            bar.close()

    def doing(self, place: Place, what: str) -> None:
        with self._lock:
            places = self._doing.setdefault(place.machine, {})
            if what:
                places[place.name] = what
            else:
                places.pop(place.name, None)

    def trouble(self, place: Place, what: str) -> None:
        with self._lock:
            self._lines.append((f"{place.name}: {what}", False))

    def made(self, job: Job, place: Place, made: Made) -> None:
        with self._lock:
            self._ended += 1
            self._made[place.machine] = self._made.get(place.machine, 0) + 1
            self._lines.append((str(job.video), True))
            if made.cache:
                self._lines.append((f"{job.video}: {made.cache}", False))
            if not self._is_terminal:
                seconds = made.facts.get("seconds")
                self._lines.append((f"{self._ended}/{self._total}: {job.video}, {place.machine}, {seconds} s", False))

    def failed(self, job: Job, error: MochiError) -> None:
        with self._lock:
            self._ended += 1
            source = "" if self._source is None else f"{self._source}, "
            self._lines.append((f"error: {source}line {job.line}: {error}", False))

    def draw(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            machines = self._in_words() if self._is_terminal else []
            ended = self._ended
        for text, is_result in lines:
            tqdm.write(text, file=sys.stdout if is_result else sys.stderr)
            if is_result:
                sys.stdout.flush()
        if self._bars:
            self._bars[0].update(ended - self._bars[0].n)
        width = shutil.get_terminal_size().columns - 1
        for row, text in enumerate(machines, 1):
            if row == len(self._bars):
                self._bars.append(tqdm(position=row, bar_format="{desc}", leave=False))
            if text[:width] != self._bars[row].desc:
                self._bars[row].set_description_str(text[:width])

    def _in_words(self) -> list[str]:
        """A line for each machine."""
        lines = []
        for machine, places in self._doing.items():
            count, made = len(places), self._made.get(machine, 0)
            doing = " | ".join(places[name] for name in sorted(places))
            lines.append(f"{machine}: {count} {'worker' if count == 1 else 'workers'}, {made} made  {doing}")
        return lines
