"""What a rank tells while it handles a request. Tensors are on the CPU."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from ...dit.cache import Passes
from ...sampling import Denoised


class Progress:
    """An event: a rank tells it while it handles a request."""

    @property
    def phase(self) -> str:
        """How far the request is, in words; empty where that is not told."""
        return ""


@dataclass(frozen=True)
class Counted(Progress):
    """So much of a request is done: `done` of `total`, in units of its class."""

    unit: ClassVar[str]
    done: int
    total: int

    @property
    def phase(self) -> str:
        return f"{self.unit} {self.done} of {self.total}"


@dataclass(frozen=True)
class TensorLoaded(Counted):
    """Another tensor of the weights is loaded."""

    unit = "tensor"


@dataclass(frozen=True)
class SplitChosen(Progress):
    """How the forward passes of a run are split, in words. warning: what that costs, where it should not be so."""

    split: str
    warning: str = ""


@dataclass(frozen=True)
class StepDone(Counted):
    """Another step of a run is done.

    Attributes:
        seconds: that it took.
        memory: that the rank holds, in bytes.
        latents, estimate: see Denoised; of rank 0 alone.
    """

    unit = "step"
    seconds: float
    memory: int
    latents: Tensor | None = None
    estimate: Tensor | None = None

    @property
    def denoised(self) -> Denoised:
        """The step as a run on one device reports it. Of rank 0 alone."""
        assert self.latents is not None and self.estimate is not None
        return Denoised(self.done, self.total, self.latents, self.estimate)


@dataclass(frozen=True)
class PassesComputed(Progress):
    """The end of a run with a step cache: which of its passes the rank computed."""

    passes: Passes


@dataclass(frozen=True)
class StripDecoded(Counted):
    """A rank's strip of the frames of another chunk.

    Attributes:
        first: number of the chunk's first latent frame.
        strip: (B, 3, F, h, w), about -1 to 1, or uint8.
        memory: that the rank holds, in bytes.
    """

    unit = "latent frame"
    first: int
    strip: Tensor
    memory: int


@dataclass(frozen=True)
class FramesDecoded(Counted):
    """The frames of another chunk, which the owner has joined: (B, 3, F, H, W), about -1 to 1, or uint8."""

    unit = "latent frame"
    frames: Tensor


@dataclass(frozen=True)
class PieceEncoded(Counted):
    """Another piece of a video is encoded."""

    unit = "piece"


class Event(NamedTuple):
    """Progress, and the rank that has told it."""

    rank: int
    payload: Progress
