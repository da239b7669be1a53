"""Decoding the longest video, with kernels and without: seconds, memory beside what was predicted, in larger pieces."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.flops import decoder_flops
from benchmarks.h100 import Machine
from mochi.kernels import without_kernels
from mochi.memory import strip_values
from mochi.vae import Decoder
from tests.exact import relative_error

from .measuring import all_kernels_ran, beside, explained, host_stops, judged, milliseconds, peak
from .setting import Part, Setting

CHUNKS = (1, 2, 4)
DIFFERS = 0.05
"""Relative: how far a piece with kernels may be from one without. Wide: bfloat16 rounds by 0.4 % at each layer."""


def section(s: Setting) -> Iterator[Part]:
    """As many latent frames at a time as mochi takes, unless a part says another number."""
    decoder, z = s.made(Decoder, s.decoder), s.random(*s.latents)
    chosen = s.chunk(*s.latents)

    def run(chunk: int = chosen) -> None:
        """None of what they become is kept."""
        deque(decoder.stream(z, chunk), maxlen=0)

    yield "fused", lambda: {"latent frames at a time": chosen, **fused(s, run, chosen), **all_kernels_ran()}
    yield "eager", partial(eager, s, run, chosen)
    yield "first piece, fused beside eager", lambda: compared(lambda: next(decoder.stream(z, chosen)))
    for chunk in CHUNKS:
        if chunk != chosen:
            yield f"{chunk} latent frames at a time", partial(other_chunk, s, run, chunk)
    if s.cuda:
        yield "cudnn.benchmark", partial(searched, s, run)
    work = decoder_flops(s.decoder, s.latents[2:])
    yield "paper", lambda: {"TFLOP": work / 1e12, "convolutions ms": 1e3 * Machine().multiplying(work)}


def fused(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    memory = memory_of(s, run, chunk)
    taken = milliseconds(run, s.device, repeats=2, warm=0)
    return {**explained(taken, run, s.device), "memory": memory, "host stops": host_stops(run, s.device)}


def memory_of(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    """Beyond what is there before. What kernels take in themselves is predicted too, and seen on CUDA alone."""
    values = strip_values(s.decoder, s.latents, chunk=chunk)
    parts = {name: count * s.dtype.itemsize / 1e9 for name, count in values.items()}
    return {**beside(peak(lambda: run(chunk), s.device), sum(parts.values())), "predicted parts GB": parts}


def eager(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    with without_kernels():
        return in_chunks(s, run, chunk)


def compared(piece: Callable[[], Tensor]) -> dict[str, Any]:
    with without_kernels():
        right = piece()
    return {**judged(relative_error(piece(), right), DIFFERS), **all_kernels_ran()}


def other_chunk(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    return {**in_chunks(s, run, chunk), **all_kernels_ran()}


def in_chunks(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    """Time and memory of one run."""
    taken: dict[str, float] = {}

    def once(chunk: int) -> None:
        taken.update(milliseconds(lambda: run(chunk), s.device, repeats=1, warm=0))

    try:
        memory = memory_of(s, once, chunk)
    except torch.OutOfMemoryError as short:
        return {"out of memory": str(short).splitlines()[0]}
    return {**taken, "memory": memory}


def searched(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    """cuDNN tries its ways to convolve, the first time that it meets a size."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        return {**milliseconds(run, s.device, repeats=1), **all_kernels_ran()}
