"""What the scheduler asks of a worker, and what it hears. Imports nothing that takes seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..dit.backends import SDPA
from ..parallel.protocol import Counted, Progress, Request
from ..parallel.settings import ParallelSettings
from ..safety import SafetySettings
from ..settings import GenerateSettings

SERVICE = ("mochi.batch.service", "VideoMaker")
"""The service of a worker, a group of one rank."""

PART = 8 * 2**20
"""The most bytes of a file that one message carries."""


@dataclass(frozen=True)
class LoadPipeline(Request[str]):
    """Load a whole Mochi, in place of an earlier one. Result: what computes attention, in words, where that is known.

    Attributes:
        model: its directory, an absolute path; None for the built-in tiny one.
        loras: files, each with its strength, 1 as trained.
        t5: its text encoder's path, absolute too, where that is not in the directory.
        dtype, device, attention, compiled, parallel, variant, passes, offload: see `load_pipeline`.
        safety: what the worker's videos are checked for; None: nothing.
    """

    doing = "loading"
    model: Path | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    attention: str = SDPA
    compiled: bool = False
    parallel: ParallelSettings | None = None
    variant: str | None = None
    loras: Sequence[tuple[str, float]] = ()
    passes: int = 2
    offload: bool = False
    t5: Path | None = None
    safety: SafetySettings | None = None


@dataclass(frozen=True)
class Made:
    """A video that is made.

    Attributes:
        facts: of the run, for the record: what computed it, how long it took, its size and hash.
        cache: what a step cache left out, in words; empty without one.
    """

    facts: Mapping[str, Any]
    cache: str = ""


@dataclass(frozen=True)
class MakeVideo(Request[Made]):
    """Make a video, and send its files in FilePart events, or write them to a path that both machines see.

    Attributes:
        output: its suffix picks the format. An absolute path where `shared`, in a folder that is there.
        quality: see VideoWriter.
        shared: whether the files, and the pictures of the settings, are on a path that both machines see.
        pictures: what is in the files of the settings' images, by their names there; unless `shared`.
    """

    doing = "making a video"
    settings: GenerateSettings
    output: Path
    quality: int
    shared: bool = False
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class StillLoading(Progress):
    """A model is being loaded, for so many seconds so far."""

    seconds: int

    @property
    def phase(self) -> str:
        return f"for {self.seconds} s"


@dataclass(frozen=True)
class StepMade(Counted):
    """Another step of sampling is done."""

    unit = "step"


@dataclass(frozen=True)
class FramesWritten(Counted):
    """More frames are decoded and written."""

    unit = "frame"


@dataclass(frozen=True)
class FilePart(Progress):
    """The next bytes of a finished file. Parts of a file come in their order, and files one after the other.

    Attributes:
        name: of the file, with the folder of its video where it is one of several.
        offset: of the part in the file.
    """

    name: str
    offset: int
    data: bytes = field(repr=False)
