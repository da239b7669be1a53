"""What the owner asks of all ranks, and what they answer. Tensors are on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ...dit.backends import SDPA
from ...dit.cache import CachePlan, Key, Passes
from ...lora.flat import FlatPatches, flatten_patches, restore_patches
from ...lora.patch import WeightPatch
from ...sampling import Given, SkipLayers

Result = TypeVar("Result")

_numbers = itertools.count(1)


def new_name() -> str:
    """A name for a model, which no other model of this owner has."""
    return f"model {next(_numbers)}"


Rows = Sequence[tuple[int, int]]
"""For each sample of a batch: the number of a text, and the row in it."""

Texts = Mapping[int, tuple[Tensor, Tensor]]
"""By number: T5 features (b, L, text width) and mask (b, L)."""


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
        given: frames that are given, with noise levels of their own.
        skip: skip-layer guidance.
    """

    doing = "sampling"
    noise: Tensor
    sigmas: Sequence[float]
    cfg: Sequence[float]
    positive: Rows
    negative: Rows
    given: Given | None = None
    skip: SkipLayers | None = None


@dataclass(frozen=True, kw_only=True)
class Forward(Denoise):
    """One forward pass. Result: `z_0 - eps`, like `z`, float32.

    Attributes:
        z: (B, 12, T, h, w). A batch of an even size, as ComfyUI makes it of the two sides of guidance, is two passes.
        sigma: the noise level of each sample, or of each of its frames. As numbers: a tensor would cost a millisecond
            more.
        rows: a text for each sample.
        keys: of the samples, for the cache.
        level: the noise level of the step, for the cache.
        skip: numbers of blocks to leave out.
    """

    doing = "making a forward pass"
    z: Tensor
    sigma: Sequence[float] | Sequence[Sequence[float]]
    rows: Rows
    keys: Sequence[Key] = ()
    level: float = 1.0
    skip: tuple[int, ...] = ()


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


@dataclass(frozen=True)
class Loaded:
    """nbytes: of the rank's weights. attention: what computes it on the rank, in words."""

    nbytes: int
    attention: str = ""


@dataclass(frozen=True)
class RankStatus:
    """What a rank holds, and has sent so far, in bytes.

    Attributes:
        models: names of those that are loaded.
        sent, between: activations of the denoisers that are loaded: to all ranks, and to those on other machines.
        strips_sent, strips_between: halos and statistics of the VAE, likewise.
    """

    memory: int
    models: Sequence[str]
    sent: int
    between: int
    strips_sent: int
    strips_between: int
