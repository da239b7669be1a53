"""A pass of the full-size denoiser: with kernels, without, compiled; what its time goes to; its memory beside what was
predicted; all beside the paper model."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.h100 import Machine, forward_pass
from mochi.dit import AsymmDiT, BlockRunner
from mochi.dit.runner import call_block, without
from mochi.kernels import without_kernels
from mochi.memory import activations
from mochi.parallel.split import Split
from tests.exact import relative_error

from .measuring import all_kernels_ran, beside, explained, host_stops, judged, milliseconds, peak, synchronize
from .setting import Forward, Part, Setting

DIFFERS = 0.05
"""Relative: how far apart ways to compute a pass of random weights may be. Wide: bfloat16 rounds by 0.4 % at each
operation of 48 blocks. The section correctness is exact, of a small model."""


def section(s: Setting) -> Iterator[Part]:
    run = Forward(s, s.made(AsymmDiT, s.dit))
    found: dict[str, Tensor] = {}
    yield "fused", partial(fused, s, run, found)
    yield "eager", partial(eager, s, run, found)
    yield "paper", lambda: paper(s)
    yield "compiled", partial(compiled, s, run, found)
    yield "levels and skipped blocks", lambda: variants(s)


def fused(s: Setting, run: Forward, found: dict[str, Tensor]) -> dict[str, Any]:
    """found: gets the output, for the others to be held against."""
    found["fused"] = run()
    return {**measured(s, run, 2), "host stops": host_stops(run, s.device), **all_kernels_ran()}


def measured(s: Setting, run: Forward, repeats: int = 1) -> dict[str, Any]:
    """memory: beyond what is there before: weights, latents, prompt and the table of positions. It comes first, and
    warms up."""
    memory = beside(peak(run, s.device), activations(s.dit, s.tokens, 1, s.dtype) / 1e9)
    taken = milliseconds(run, s.device, repeats, warm=0)
    return {**explained(taken, run, s.device), "memory": memory}


def differs(output: Tensor, found: dict[str, Tensor]) -> dict[str, Any]:
    """Beside the pass with kernels, where that ran."""
    return {"differs": judged(relative_error(output, found["fused"]), DIFFERS)} if "fused" in found else {}


def eager(s: Setting, run: Forward, found: dict[str, Tensor]) -> dict[str, Any]:
    with without_kernels():
        return {**differs(run(), found), **measured(s, run)}


def compiled(s: Setting, run: Forward, found: dict[str, Tensor]) -> dict[str, Any]:
    """The first pass compiles, and another prompt must not do so again."""
    from torch._dynamo.utils import counters

    from mochi.dit.compiled import CompiledBlocks

    counters.clear()
    runner = BlockRunner(CompiledBlocks(s.compiler))
    run.runner = runner  # the same inputs as before
    figures: dict[str, Any] = {"compiling s": seconds(s, run)}
    figures |= {**differs(run(), found), **measured(s, run, 2)}
    for text in (9, 1, 0):
        figures[f"first pass with {text} text tokens s"] = seconds(s, Forward(s, run.model, text, runner))
    figures["graphs"] = counters["stats"]["unique_graphs"]
    return figures


def seconds(s: Setting, run: Forward) -> float:
    synchronize(s.device)
    started = time.perf_counter()
    run()
    synchronize(s.device)
    return time.perf_counter() - started


def variants(s: Setting) -> dict[str, Any]:
    """Of few blocks: a pass whose frames have noise levels of their own, and one that leaves a block out, as the third
    pass of skip-layer guidance does; beside the plain pass."""
    run = Forward(s, s.made(AsymmDiT, s.few_blocks()))
    skipping = BlockRunner(without(call_block, [run.model.blocks[1]]))
    passes = {
        "plain": run,
        "levels of frames": Forward(s, run.model, levels=True),
        "a block left out": Forward(s, run.model, runner=skipping),
    }
    found: dict[str, Any] = {"blocks": len(run.model.blocks)}
    for name, one in passes.items():
        found[name] = {**peak(one, s.device), **milliseconds(one, s.device, warm=0)}
        found[name]["x a plain pass"] = found[name]["ms"] / found["plain"]["ms"]
    return found | all_kernels_ran()


def paper(s: Setting) -> dict[str, Any]:
    """Milliseconds of a pass, from data sheets and assumed rates."""
    ways = {"eager": True, "fused": False}
    passes = {way: forward_pass(Machine(), s.dit, s.tokens, s.text, Split(1, 1), False, ways[way]) for way in ways}
    parts = {way: {name: 1e3 * value for name, value in one._asdict().items() if value} for way, one in passes.items()}
    return {way: {**found, "ms": sum(found.values())} for way, found in parts.items()}
