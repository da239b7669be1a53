"""A pass of the full-size denoiser: with kernels, without, compiled; what its time goes to; its memory beside what was
predicted; all beside the paper model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.errors import error
from benchmarks.h100 import Machine, forward_pass
from mochi.dit import AsymmDiT
from mochi.kernels import without_kernels
from mochi.memory.denoise import activations
from mochi.parallel.split import Split

from .measuring import milliseconds, peak, products_alone, profiled, synchronize
from .setting import Forward, Part, Setting


def section(s: Setting) -> Iterator[Part]:
    model = s.made(AsymmDiT, s.dit)
    run = Forward(s, model)
    right = run()
    yield "fused", lambda: {**measured(s, run), "memory": memory(s, run)}
    yield "eager", partial(eager, s, run, right)
    yield "paper", lambda: paper(s)
    yield "compiled", partial(compiled, s, run, right)


def measured(s: Setting, run: Forward) -> dict[str, Any]:
    """limit: of products and attention alone, which are what they are whoever calls them."""
    taken, profile = milliseconds(run, s.device, repeats=2), profiled(run, s.device)
    limit = products_alone(profile)
    return {**taken, "limit ms": limit, "beyond limit x": taken["ms"] / limit, "profile": profile}


def eager(s: Setting, run: Forward, right: Tensor) -> dict[str, Any]:
    with without_kernels():
        return {**measured(s, run), "memory": memory(s, run), "differs": error(run(), right)}


def memory(s: Setting, run: Forward) -> dict[str, float]:
    """Beyond what is there before: weights, latents, prompt and the table of positions."""
    found = peak(run, s.device)
    predicted = activations(s.dit, s.tokens, 1, s.dtype) / 1e9
    return {**found, "predicted beyond GB": predicted, "found / predicted": found["peak beyond GB"] / predicted}


def compiled(s: Setting, run: Forward, right: Tensor) -> dict[str, Any]:
    """The first pass compiles, and another prompt must not do so again."""
    from torch._dynamo.utils import counters

    from mochi.dit.compiled import compile_blocks

    counters.clear()
    compile_blocks(run.model.blocks, s.compiler)
    figures: dict[str, Any] = {"compiling s": seconds(s, run)}
    figures |= {**measured(s, run), "memory": memory(s, run), "differs": error(run(), right)}
    for text in (9, 1, 0):
        figures[f"first pass with {text} text tokens s"] = seconds(s, Forward(s, run.model, text))
    figures["graphs"] = counters["stats"]["unique_graphs"]
    return figures


def seconds(s: Setting, run: Forward) -> float:
    synchronize(s.device)
    started = time.perf_counter()
    run()
    synchronize(s.device)
    return time.perf_counter() - started


def paper(s: Setting) -> dict[str, Any]:
    """Milliseconds of a pass, from data sheets and assumed rates."""
    ways = {"eager": True, "fused": False}
    passes = {way: forward_pass(Machine(), s.dit, s.tokens, s.text, Split(1, 1), False, ways[way]) for way in ways}
    parts = {way: {name: 1e3 * value for name, value in one._asdict().items() if value} for way, one in passes.items()}
    return {way: {**found, "ms": sum(found.values())} for way, found in parts.items()}
