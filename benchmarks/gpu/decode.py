"""Decoding the longest video, with kernels and without: seconds, memory beside what was predicted, in larger pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.flops import decoder_flops
from benchmarks.h100 import Machine
from mochi.kernels import without_kernels
from mochi.memory.decode import live_values
from mochi.vae import Decoder

from .measuring import milliseconds, peak, products_alone, profiled
from .setting import Part, Setting

CHUNKS = (2, 4)


def section(s: Setting) -> Iterator[Part]:
    decoder, z = s.made(Decoder, s.decoder), s.random(*s.latents)

    def run(chunk: int = 1) -> None:
        """So many latent frames at a time, none of what they become kept."""
        deque(decoder.stream(z, chunk), maxlen=0)

    yield "fused", lambda: measured(s, run)
    yield "eager", partial(eager, s, run)
    for chunk in CHUNKS:
        yield f"{chunk} latent frames at a time", partial(in_chunks, s, run, chunk)
    if s.cuda:
        yield "cudnn.benchmark", partial(searched, s, run)
    work = decoder_flops(s.decoder, s.latents[2:])
    yield "paper", lambda: {"TFLOP": work / 1e12, "convolutions ms": 1e3 * Machine().multiplying(work)}


def measured(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    memory, taken, profile = memory_of(s, run), milliseconds(run, s.device, repeats=2, warm=0), profiled(run, s.device)
    limit = products_alone(profile)
    return {**taken, "limit ms": limit, "beyond limit x": taken["ms"] / limit, "memory": memory, "profile": profile}


def memory_of(s: Setting, run: Callable[..., None], chunk: int = 1) -> dict[str, Any]:
    """Beyond what is there before. What kernels take in themselves is predicted too, and seen on CUDA alone."""
    found = peak(lambda: run(chunk), s.device)
    values = live_values(s.decoder, chunk, *s.latents[3:])
    parts = {name: count * s.dtype.itemsize / 1e9 for name, count in values.items()}
    predicted = sum(parts.values())
    beside = {"predicted beyond GB": predicted, "found / predicted": found["peak beyond GB"] / predicted}
    return {**found, **beside, "predicted parts GB": parts}


def eager(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    with without_kernels():
        return in_chunks(s, run, 1)


def in_chunks(s: Setting, run: Callable[..., None], chunk: int) -> dict[str, Any]:
    try:
        memory = memory_of(s, run, chunk)
        return {**milliseconds(lambda: run(chunk), s.device, repeats=1, warm=0), "memory": memory}
    except torch.OutOfMemoryError as short:
        return {"out of memory": str(short).splitlines()[0]}


def searched(s: Setting, run: Callable[[], None]) -> dict[str, float]:
    """cuDNN tries its ways to convolve, the first time that it meets a size."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        return milliseconds(run, s.device, repeats=1)
