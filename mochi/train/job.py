"""What a person asks for when a LoRA is to be trained, and what is heard of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch

from ..model_dir import ModelFiles
from .settings import Recompute, TrainSettings

Format = Literal["published", "diffusers"]


@dataclass(frozen=True)
class Samples:
    """What is looked at while a run goes on.

    Attributes:
        every: steps between two looks, and two checkpoints.
        prompts: of the sample clips. Empty: captions of held-out clips, or of the first ones that are trained on.
        count: how many clips there are at most; 0: none.
        hold_out: clips that are not trained on. The loss on them is told.
        steps, cfg, width, height, frames: of the sample clips; None: the model's own, and the size that is trained on.
        seed: of the first one's noise. The others count on from it.
    """

    every: int = 200
    prompts: Sequence[str] = ()
    count: int = 2
    hold_out: int = 0
    steps: int | None = None
    cfg: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Placement:
    """Where a run computes, and what it keeps.

    Attributes:
        device: None: the GPU if there is one.
        dtype: of the weights, see `Checkpoint.plan`; None: as they are in the file where that is quantised, else
            bfloat16 on a GPU and float32 on a CPU.
        sharding: of the frozen weights over the devices of a machine, one of SHARDINGS.
        ulysses: devices that share the tokens of a clip. The others train on clips of their own.
        recompute: what is computed again in the backward pass rather than kept.
    """

    device: str | None = None
    dtype: torch.dtype | None = None
    sharding: str = "replicated"
    ulysses: int = 1
    recompute: Recompute = "all but attention"


@dataclass(frozen=True)
class TrainJob:
    """A LoRA that is to be trained.

    Attributes:
        data: see `train.data`.
        output: the file of the LoRA, .safetensors.
        work: the folder of all else of the run: checkpoint, log, sample clips; None: `output` with `.training` in place
            of `.safetensors`.
        model: a model's directory, None for the built-in tiny one; or the files of one.
        sizes: (width, height) of clips that are trained on, in pixels; empty: the model's own.
        frames: their lengths, 6k + 1; empty: the usual ones.
        windows: that are taken of a long clip.
        cache: the folder of encoded clips; None: beside the data.
        restart: whether an earlier run of this output is thrown away rather than gone on with.
        start: a LoRA file to begin with.
        keep_prompts: a text file of prompts, one a line, for `TrainSettings.keep`.
    """

    data: Path
    output: Path
    model: Path | ModelFiles | None = None
    settings: TrainSettings = field(default_factory=TrainSettings)
    sizes: Sequence[tuple[int, int]] = ()
    frames: Sequence[int] = ()
    windows: int = 1
    cache: Path | None = None
    work: Path | None = None
    samples: Samples = field(default_factory=Samples)
    placement: Placement = field(default_factory=Placement)
    format: Format = "published"
    restart: bool = False
    start: Path | None = None
    keep_prompts: Path | None = None


@dataclass(frozen=True)
class Stepped:
    """A step that is done.

    Attributes:
        step, steps: its number from 1, and how many there are.
        loss: mean squared error over the clips of the step.
        lr: the learning rate that it had.
        gradient: the length of the gradient before it was shortened.
        seconds: that it took.
        left: seconds that all others are thought to take.
        memory: the most bytes that tensors have had on a GPU so far; 0 on a CPU.
        clips: that it trained on, for messages.
    """

    step: int
    steps: int
    loss: float
    lr: float
    gradient: float
    seconds: float
    left: float
    memory: int = 0
    clips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """A look at the LoRA as it is after a step.

    Attributes:
        loss: on held-out clips, without the LoRA's dropout and at fixed noise; None where there are none.
        videos: the sample clips, files, in the order of `prompts`.
    """

    step: int
    loss: float | None
    videos: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ()


class Watcher(Protocol):
    """Who follows a run: a terminal, or a node. Each call may raise, which ends the run as a cancel does."""

    def said(self, text: str) -> None:
        """Something that a person should know: a clip that is left out, the forecast of memory."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """How far clips and captions are encoded, weights read, or a sample clip made."""

    def stepped(self, step: Stepped) -> None: ...

    def looked(self, look: Looked) -> None: ...

    def cancelled(self) -> bool:
        """Whether the run is to end now, with a checkpoint: as this process sees it. Any of several may say so."""
        ...
