"""What is asked of processes that train together, and what they tell. Imports nothing that takes seconds."""

from dataclasses import dataclass

from ..parallel.protocol import Progress, Request
from .job import Looked, Stepped, TrainJob

SERVICE = ("mochi.train.service", "Trainer")
"""The service of a group that trains."""


@dataclass(frozen=True)
class TrainLora(Request[str]):
    """Train a LoRA, or go on with it. Result: the path of its file.

    job: its paths are absolute, and its device is that of each rank.
    """

    doing = "training a LoRA"
    job: TrainJob


@dataclass(frozen=True)
class Noted(Progress):
    """Something that a person should know."""

    text: str


@dataclass(frozen=True)
class Preparing(Progress):
    """So much of something before the steps, or between them, is done: `done` of `total`."""

    what: str
    done: int
    total: int

    @property
    def phase(self) -> str:
        return f"{self.what}: {self.done} of {self.total}"


@dataclass(frozen=True)
class StepTaken(Progress):
    """Another step is done."""

    step: Stepped

    @property
    def phase(self) -> str:
        return f"step {self.step.step} of {self.step.steps}"


@dataclass(frozen=True)
class LookTaken(Progress):
    """There are new sample clips, or a loss on clips that are held out."""

    look: Looked


@dataclass(frozen=True)
class StillBusy(Progress):
    """There was no other word for so many seconds, and the rank lives."""

    seconds: int

    @property
    def phase(self) -> str:
        return f"without a word for {self.seconds} s"
