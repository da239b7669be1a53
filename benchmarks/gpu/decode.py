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
from mochi.memory import decoding
from mochi.vae import Decoder

from .measuring import milliseconds, peak, products_alone, profiled
from .setting import Part, Setting

CHUNKS = (2, 4)


def section(s: Setting) -> Iterator[Part]:
    decoder, z = s.made(Decoder, s.decoder), s.random(*s.latents)

    def run(*chunk: int) -> None:
        """Frame by frame, none of them kept."""
        deque(decoder.stream(z, *chunk), maxlen=0)

    yield "fused", lambda: measured(s, run)
    yield "eager", partial(eager, s, run)
    for chunk in CHUNKS:
        yield f"{chunk} latent frames at a time", partial(in_chunks, s, partial(run, chunk))
    if s.cuda:
        yield "cudnn.benchmark", partial(searched, s, run)
    work = decoder_flops(s.decoder, s.latents[2:])
    yield "paper", lambda: {"TFLOP": work / 1e12, "convolutions ms": 1e3 * Machine().multiplying(work)}


def measured(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    memory, taken, profile = memory_of(s, run), milliseconds(run, s.device, repeats=2, warm=0), profiled(run, s.device)
    limit = products_alone(profile)
    return {**taken, "limit ms": limit, "beyond limit x": taken["ms"] / limit, "memory": memory, "profile": profile}


def memory_of(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    """Predicted: without the weights, which are there before, and the frames, which are not kept here. What kernels
    take in themselves is in it, and seen on CUDA alone."""
    found = peak(run, s.device)
    parts = {name: size / 1e9 for name, size in decoding(s.decoder, s.latents, compute=s.dtype).parts.items()}
    predicted = sum(size for name, size in parts.items() if name not in ("weights", "frames", "slack"))
    return {
        **found,
        "predicted beyond GB": predicted,
        "found / predicted": found["peak beyond GB"] / predicted,
        "predicted parts GB": parts,
    }


def eager(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    with without_kernels():
        return measured(s, run)


def in_chunks(s: Setting, run: Callable[[], None]) -> dict[str, Any]:
    try:
        return {**peak(run, s.device), **milliseconds(run, s.device, repeats=1, warm=0)}
    except torch.OutOfMemoryError as short:
        return {"out of memory": str(short).splitlines()[0]}


def searched(s: Setting, run: Callable[[], None]) -> dict[str, float]:
    """cuDNN tries its ways to convolve, the first time that it meets a size."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True):
        return milliseconds(run, s.device, repeats=2)
