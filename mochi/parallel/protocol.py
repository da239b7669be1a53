"""The protocol between the owner of a group and its ranks.

The owner sends a request to all ranks, which handle it in lockstep. Each rank tells of it in events while it runs, and
ends it with one answer. Tensors among them are on the CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..dit.backends import SDPA
from ..dit.cache import CachePlan, Key, Passes
from ..lora.patch import WeightPatch
from ..sampling import Denoised

Result = TypeVar("Result")

_numbers = itertools.count(1)


def new_name() -> str:
    """A name for a model, which no other model of this owner has."""
    return f"model {next(_numbers)}"


Rows = Sequence[tuple[int, int]]
"""For each sample of a batch: the number of a text, and the row in it."""

Texts = Mapping[int, tuple[Tensor, Tensor]]
"""By number: T5 features (b, L, text width) and mask (b, L)."""


# --- requests


@dataclass(frozen=True)
class Request(Generic[Result]):
    """Something that all ranks are asked to do. `Result`: of what type the answer of each rank is."""

    doing: ClassVar[str] = "working"
    """In words, for errors and the log."""


@dataclass(frozen=True)
class LoadDiT(Request["Loaded"]):
    """Load an AsymmDiT.

    Attributes:
        path: of a file with its weights.
        weight_dtype: what weights are rounded to, see `load_dit`.
        compute_dtype: what it computes in; None: in weight_dtype.
        sharding: "replicated", "sharded" or "offloaded", see RankWeights.
        attention: one of ATTENTIONS.
        compiled: whether its blocks are compiled.
        fast: whether float8 weights are multiplied in float8.
        name: what later requests call it.
    """

    doing = "loading"
    path: Path
    weight_dtype: torch.dtype | None
    compute_dtype: torch.dtype | None
    sharding: str = "replicated"
    attention: str = SDPA
    compiled: bool = False
    fast: bool = False
    name: str = field(default_factory=new_name)


@dataclass(frozen=True)
class LoadVAE(Request["Loaded"]):
    """Load the decoder, the encoder or both, each from its file; every rank has all of it."""

    doing = "loading"
    decoder: Path | None
    encoder: Path | None
    dtype: torch.dtype
    name: str = field(default_factory=new_name)


@dataclass(frozen=True)
class Unload(Request[int]):
    """Forget models and give their memory back; without names, only memory that is not used. Result: the bytes that
    the rank still holds."""

    doing = "unloading"
    names: Sequence[str] = ()


@dataclass(frozen=True)
class PatchWeights(Request[int]):
    """Put patches on the weights of the file, in place of earlier patches. Result: how many tensors were read."""

    doing = "patching weights"
    name: str
    patches: Mapping[str, Sequence[WeightPatch]]

    def __getstate__(self) -> tuple[str, FlatPatches]:
        return self.name, flatten_patches(self.patches)

    def __setstate__(self, state: tuple[str, FlatPatches]) -> None:
        name, flat = state
        self.__dict__.update(name=name, patches=restore_patches(flat))


@dataclass(frozen=True, kw_only=True)
class Denoise(Request["Tensor | None"]):
    """The common part of a whole run and a single forward pass. Result: rank 0's tensor, None of the others.

    Attributes:
        name: of the model.
        texts: those that the ranks do not know yet.
        forget: numbers of texts that are not used any more.
        degrees: cfg and Ulysses degree, 0 for the best.
        cache: the step cache of the run that this is a part of.
    """

    name: str
    texts: Texts
    forget: Sequence[int]
    degrees: tuple[int, int] = (0, 0)
    cache: CachePlan | None = None


@dataclass(frozen=True, kw_only=True)
class Sample(Denoise):
    """A whole run of the Euler loop. Result: DiT latents like `noise`, float32.

    Attributes:
        noise: (B, 12, T, h, w), at the noise level sigmas[0].
        sigmas: noise levels, one more than there are steps.
        cfg: a guidance scale for each step.
        positive, negative: the texts of the batch.
    """

    doing = "sampling"
    noise: Tensor
    sigmas: Sequence[float]
    cfg: Sequence[float]
    positive: Rows
    negative: Rows


@dataclass(frozen=True, kw_only=True)
class Forward(Denoise):
    """One forward pass. Result: `z_0 - eps`, like `z`, float32.

    Attributes:
        z: (B, 12, T, h, w). A batch of an even size, as ComfyUI makes it of the two sides of guidance, is two passes.
        sigma: the noise level of each sample. As numbers: a tensor would cost a millisecond more.
        rows: a text for each sample.
        keys: of the samples, for the cache.
    """

    doing = "making a forward pass"
    z: Tensor
    sigma: Sequence[float]
    rows: Rows
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class ForgetRun(Request[Passes]):
    """Free what was kept for the forward passes of a run. Result: which of them a cache computed on the rank."""

    doing = "ending a run"
    name: str


@dataclass(frozen=True)
class Decode(Request[None]):
    """VAE latents (B, 12, T, h, w) -> frames, which come as StripDecoded events."""

    doing = "decoding"
    name: str
    z: Tensor
    as_bytes: bool = False


@dataclass(frozen=True)
class Encode(Request["Tensor | None"]):
    """Frames (B, 3, F, H, W) in -1 to 1 -> the rank's strip of the mean latents, None of a rank without one."""

    doing = "encoding"
    name: str
    video: Tensor


@dataclass(frozen=True)
class GetStatus(Request["RankStatus"]):
    """Ask what a rank holds."""

    doing = "telling its state"


FlatPatches = tuple[dict[str, list[tuple[type, dict[str, Any]]]], dict[torch.dtype, Tensor]]
"""Class and fields of each patch, by parameter, in which a tensor is (dtype, first element, shape); and one long tensor
of each dtype."""


def flatten_patches(patches: Mapping[str, Sequence[WeightPatch]]) -> FlatPatches:
    """Join the tensors of patches, one after the other, on the CPU.

    Each tensor that crosses by itself costs open files, and a LoRA on all blocks has more than a process may open.
    """
    parts: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        first = ends.get(value.dtype, 0)
        parts.setdefault(value.dtype, []).append(value.cpu().flatten())
        ends[value.dtype] = first + value.numel()
        return value.dtype, first, tuple(value.shape)

    def placed(patch: WeightPatch) -> tuple[type, dict[str, Any]]:
        return type(patch), {name: place(value) for name, value in vars(patch).items()}

    plan = {name: [placed(patch) for patch in several] for name, several in patches.items()}
    return plan, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}


def restore_patches(flat: FlatPatches) -> dict[str, list[WeightPatch]]:
    """The patches that were flattened; their tensors are views."""
    plan, long = flat

    def found(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        dtype, first, shape = value
        return long[dtype][first : first + torch.Size(shape).numel()].view(shape)

    def restored(kind: type, values: dict[str, Any]) -> WeightPatch:
        return kind(**{name: found(value) for name, value in values.items()})

    return {name: [restored(*patch) for patch in several] for name, several in plan.items()}


# --- results


@dataclass(frozen=True)
class Loaded:
    """nbytes: of the rank's weights. attention: what computes it on the rank, in words."""

    nbytes: int
    attention: str = ""


@dataclass(frozen=True)
class RankStatus:
    """memory: in bytes. models: names of those that are loaded. sent: bytes of activations so far."""

    memory: int
    models: Sequence[str]
    sent: int


# --- events


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
    """How the forward passes of a run are split, in words."""

    split: str


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


# --- messages, which carry the above


@dataclass(frozen=True)
class Start:
    """The first message to a worker.

    Attributes:
        rank: its number.
        devices: of all ranks.
        threads: of each rank.
        timeout: seconds after which an operation among ranks has failed.
        folder: the private one of the group.
        service: the class that handles requests, as (module or path of a file, class name).
        authkey: with which processes fetch each other's tensors.
    """

    rank: int
    devices: Sequence[str]
    threads: int
    timeout: float
    folder: Path
    service: tuple[str, str]
    authkey: bytes


class Ask(NamedTuple):
    """A request, and its number, which counts up from 1. END asks a worker to end."""

    number: int
    request: Any


END = Ask(0, None)


class Reply(NamedTuple):
    """A message of a rank about a request: Progress, and in the end Answer, Refused, Left or Failed.

    Number 0 is the start. Failed ends the group, the others do not.
    """

    number: int
    content: Any


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """The end of a request. seconds: that it took. memory: that the rank holds then, in bytes."""

    result: Result
    seconds: float
    memory: int


@dataclass(frozen=True)
class Refused:
    """The end of a request that cannot be answered as it is, for a reason that a person can mend."""

    reason: str


@dataclass(frozen=True)
class Left:
    """The end of a request that was cancelled."""


@dataclass(frozen=True)
class Failed:
    """The end of a rank that raised an error.

    Attributes:
        text: its type and first line.
        traceback: all of it.
        of_peer: whether it follows from another rank's end.
        out_of_memory: whether memory was not enough.
    """

    text: str
    traceback: str
    of_peer: bool
    out_of_memory: bool
