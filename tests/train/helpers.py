"""A folder of clips of the tiny model's world, and jobs that train on it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from mochi.train.job import Looked, Samples, Stepped, TrainJob
from mochi.train.settings import Rank, TrainSettings
from mochi.video import VideoWriter
from tiny.captions import plain_caption
from tiny.clips import draw, random_scene

QUIET = Samples(every=3, count=0)
SETTINGS = TrainSettings(steps=8, batch=1, lr=1e-2, warmup=2, ema=0.9, attention=Rank(2, 4.0), dropout=0.1, seed=3)


def write_clips(folder: Path, count: int = 3) -> Path:
    """Clips with captions. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        scene = random_scene(rng)
        with VideoWriter(folder / f"{number}.mp4", 12, (64, 64), quality=95) as video:
            video.write(torch.from_numpy(draw(scene)))
        (folder / f"{number}.txt").write_text(plain_caption(scene))
    return folder


def job_for(data: Path, output: Path, samples: Samples = QUIET, **settings: object) -> TrainJob:
    """A short run on the tiny model."""
    return TrainJob(data, output, settings=replace(SETTINGS, **settings), samples=samples)


@dataclass
class Heard:
    """A Watcher that keeps what it hears, and wants the run to end after a step."""

    ends_after: int | None = None
    on_step: Callable[[Stepped], None] = lambda step: None
    texts: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    steps: list[Stepped] = field(default_factory=list)
    looks: list[Looked] = field(default_factory=list)
    _doing: int = 0

    def said(self, text: str) -> None:
        self.texts.append(text)

    def preparing(self, what: str, done: int, total: int) -> None:
        self.prepared.append(what)

    def stepped(self, step: Stepped) -> None:
        self.steps.append(step)
        self.on_step(step)

    def looked(self, look: Looked) -> None:
        self.looks.append(look)

    def cancelled(self) -> bool:
        # Asked once in a step, before it is told.
        return self.ends_after is not None and len(self.steps) + 1 >= self.ends_after


def difference(one: Path, other: Path) -> float:
    """The largest difference of any value of two files, over the largest value of the second one."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in b) / max(t.abs().max().item() for t in b.values())
