"""What a node shows of the training of a LoRA while it runs: numbers, the curve of the loss, sample clips."""

import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.utils
import folder_paths

from ...mochi.parallel.protocol import Event
from ...mochi.train.job import Looked, Stepped
from ...mochi.train.log import NAME as LOG
from ...mochi.train.requests import LookTaken, Noted, Preparing, StepTaken
from .curve import Point, draw_curve
from .moving_picture import write_moving_picture
from .progress import show_now, show_text
from .ranks.group import size_text

MEAN_OF = 50
"""Steps over which a loss is averaged: that of one says little, since its noise is drawn anew."""

WORDS, PICTURE = 0.2, 5.0
"""Seconds between two texts, and between two pictures of the curve."""


class Shown:
    """Hears of a run, and shows it in the node.

    Args:
        run: its folder, where the log of its earlier steps may be.
    """

    def __init__(self, run: Path):
        self._log, self._folder = run / LOG, Path(tempfile.mkdtemp(prefix="mochi-training-", dir=_temp()))
        self._losses: list[Point] = []
        self._held_out: list[Point] = []
        self._last: Stepped | None = None
        self._seconds: list[float] = []  # of the last steps
        self._clips: list[Path] = []  # moving pictures of the newest look
        self._notes: list[str] = []
        self._bar: Any = None
        self._text = self._said = ""
        self._said_at = self._drawn_at = 0.0
        self._is_new = False  # whether there is something that the picture does not have

    @property
    def step(self) -> int:
        """The last one that this run took; 0: none."""
        return 0 if self._last is None else self._last.step

    @property
    def pace(self) -> float:
        """Seconds of the longest of the last steps."""
        return max(self._seconds, default=0.0)

    def written(self, name: str, lines: Sequence[str]) -> Path:
        """A file with these lines, for as long as the host runs."""
        path = self._folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def hear(self, event: Event) -> None:
        """Take in what a rank tells. The first one tells everything."""
        if event.rank != 0:
            return
        match event.payload:
            case Noted(text):
                self._notes.append(text)
                self._text = text
            case Preparing() as told:
                self._text = told.phase if self._last is None else f"{self._numbers()}\n{told.phase}"
            case StepTaken(step):
                self._take(step)
            case LookTaken(look):
                self._look(look)

    def draw(self) -> None:
        """Show what is new. Raises the host's interrupt when the user cancels."""
        mm.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if self._text != self._said and now - self._said_at >= WORDS:
            self._said, self._said_at = self._text, now
            show_text(self._text)
        if self._is_new and now - self._drawn_at >= PICTURE:
            self._drawn_at = now
            show_now(self.results())

    def results(self) -> dict[str, Any]:
        """The curve and the newest sample clips, as the node shows them."""
        self._is_new = False
        if not self._losses:  # nothing was left to train
            self._losses, self._held_out = _logged(self._log, math.inf)
        pictures = list(self._clips)
        if self._losses:
            # A new name each time, since who shows the one before may still read it.
            curve = self._folder / f"loss-{self.step:06d}.png"
            steps = self._losses[-1][0] if self._last is None else self._last.steps
            draw_curve(curve, self._losses, self._held_out, steps, MEAN_OF)
            pictures.insert(0, curve)
        # Not "animated", of which the classic editor would show the first one alone.
        return {"images": [_shown(picture) for picture in pictures], "animated": (False,)}

    def report(self, name: str, seconds: float) -> str:
        """What has become of the run, in words."""
        if self._last is None:
            done = f"{name}: there was nothing left to train"
        else:
            done = f"{name}: step {self.step} of {self._last.steps}, loss {self._mean()} ({in_words(seconds)})"
        return "\n".join([done, *self._notes])

    def _take(self, step: Stepped) -> None:
        if self._last is None:
            self._losses, self._held_out = _logged(self._log, step.step)
            self._bar = comfy.utils.ProgressBar(step.steps)
        self._last = step
        self._losses.append((step.step, step.loss))
        self._seconds = [*self._seconds[1 - MEAN_OF :], step.seconds]
        self._bar.update_absolute(step.step, step.steps)
        self._text, self._is_new = self._numbers(), True

    def _look(self, look: Looked) -> None:
        if look.loss is not None:
            self._held_out.append((look.step, look.loss))
        clips = [self._folder / f"step-{look.step:06d}-{number}.webp" for number in range(1, len(look.videos) + 1)]
        for video, clip in zip(look.videos, clips, strict=True):
            write_moving_picture(video, clip)
        self._clips = clips or self._clips
        self._is_new, self._drawn_at = True, 0.0  # at once

    def _mean(self) -> str:
        last = [loss for _, loss in self._losses[-MEAN_OF:]]
        return f"{sum(last) / len(last):.4f}"

    def _numbers(self) -> str:
        step = self._last
        assert step is not None
        pace = sum(self._seconds) / len(self._seconds)
        held_out = [f"{self._held_out[-1][1]:.4f} on held-out clips"] if self._held_out else []
        memory = [size_text(step.memory)] if step.memory else []
        loss = f"loss {self._mean()} (mean of {min(MEAN_OF, len(self._losses))})"
        left = f"{in_words(step.left)} left"
        parts = [
            f"step {step.step} of {step.steps}",
            loss,
            *held_out,
            f"lr {step.lr:.2g}",
            f"{pace:.2f} s a step",
            left,
        ]
        return " · ".join([*parts, *memory])


def in_words(seconds: float) -> str:
    """A time, such as "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _logged(log: Path, step: float) -> tuple[list[Point], list[Point]]:
    """The losses of a run's steps before this one, and those on held-out clips. None where the log tells none."""
    losses, held_out = [], []
    for line in _lines(log):
        if line["step"] < step:
            for name, found in (("loss", losses), ("held-out loss", held_out)):
                if isinstance(line.get(name), (int, float)):
                    found.append((line["step"], float(line[name])))
    return losses, held_out


def _lines(log: Path) -> Sequence[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]


def _temp() -> str:
    temp = folder_paths.get_temp_directory()
    Path(temp).mkdir(parents=True, exist_ok=True)
    return temp


def _shown(picture: Path) -> dict[str, str]:
    return {"filename": picture.name, "subfolder": picture.parent.name, "type": "temp"}
