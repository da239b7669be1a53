"""What a GPU was measured to do beside what was predicted, as Markdown: `python -m benchmarks.report_gpu [FILE]`.

FILE: a run of `python -m benchmarks.gpu`; by default the newest in benchmarks/results. Predictions are the paper
model's (h100.py) with assumed rates, and the memory model's. Targets are what this project wants of an H100.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.results import Result, figure, newest, verdicts
from benchmarks.h100 import GPUS, Machine, decoding_table, forward_pass, steps_table
from mochi.config import PREVIEW
from mochi.geometry import latent_shape
from mochi.memory import tokens_of
from mochi.parallel.split import Split

UNKNOWN = "not measured yet"
LATENTS = latent_shape(848, 480, 163)
TOKENS = tokens_of(PREVIEW.dit, LATENTS)[1]
TEXT = PREVIEW.dit.text_length


@dataclass(frozen=True)
class Row:
    """title: what, with its unit. path: where a run has it. predicted: None where nobody did. target: with its test."""

    title: str
    path: tuple[str, ...]
    predicted: float | None = None
    target: str = ""
    met: Callable[[float], bool] | None = None

    def cells(self, result: Result | None) -> list[str]:
        value = figure(result, *self.path)
        if not isinstance(value, (int, float)):
            return [self.title, UNKNOWN, _text(self.predicted), "", self.target]
        ratio = _text(value / self.predicted) if self.predicted else ""
        target = f"{self.target}: {'yes' if self.met(value) else 'no'}" if self.met else self.target
        return [self.title, _text(value), _text(self.predicted), ratio, target]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, nargs="?", help="a run; by default the newest in benchmarks/results")
    file = parser.parse_args().file
    print(markdown(json.loads(file.read_text(encoding="utf-8")) if file else newest()))


def markdown(result: Result | None) -> str:
    """Of a run, or of what is to be measured."""
    title = f"{result['card']}, torch {result['torch']}, {result['date']}" if result else "No GPU has run it yet."
    header = ["", "measured", "predicted", "measured / predicted", "target"]
    table = [header, ["---"] * len(header), *(row.cells(result) for row in rows())]
    lines = [title, "", *(f"| {' | '.join(cells)} |" for cells in table)]
    return "\n".join([*lines, "", *_judgement(result)])


def rows() -> Iterator[Row]:
    machine, rates = Machine(), Machine(matmul_rate=1, attention_rate=1, memory_rate=1)
    yield Row("products, TFLOP/s", ("environment", "products", "TFLOP/s"), machine.matmul_rate * rates.tflops)
    yield Row("attention, TFLOP/s", ("attention", "mochi", "TFLOP/s"), machine.attention_rate * rates.tflops)
    copy = machine.memory_rate * rates.memory_gb
    yield Row("copies on the device, GB/s", ("environment", "copies", "on the device GB/s"), copy)
    for way in ("eager", "fused", "compiled"):
        one = forward_pass(machine, PREVIEW.dit, TOKENS, TEXT, Split(1, 1), False, eager=way == "eager")
        yield Row(f"pass, {way}, ms", ("step", way, "ms"), 1e3 * sum(one))
    beyond = "at most 1.25", lambda x: x <= 1.25
    yield Row("pass, fused, beside its products and attention, x", ("step", "fused", "beyond limit x"), None, *beyond)
    memory = "at most 1.15", lambda x: x <= 1.15
    yield Row(
        "memory of a pass beside the prediction, x", ("step", "fused", "memory", "found / predicted"), None, *memory
    )
    convolutions = 1e3 * decoding_table(machine, PREVIEW, LATENTS)["1"]["convolutions s"]
    yield Row("decoding, ms", ("decode", "fused", "ms"), convolutions)
    yield Row(
        "memory of decoding beside the prediction, x", ("decode", "fused", "memory", "found / predicted"), None, *memory
    )
    steps = steps_table(machine, PREVIEW, LATENTS, TEXT, 64)
    for ranks in GPUS[1:]:
        fastest = max(row["speed-up"] for title, row in steps.items() if title.startswith(f"{ranks}:"))
        path = ("shares", f"{ranks} ranks, denoiser", "predicted speed-up")
        yield Row(f"speed-up of {ranks} GPUs, from one rank's share", path, fastest)
    fast = "more than 1", lambda x: x > 1
    yield Row(
        "float8 products beside bfloat16, x as fast", ("quants", "float8 fast", "as fast as bfloat16 x"), None, *fast
    )
    faster = "ours is faster x"
    yield Row(
        "diffusers' denoiser, x our time",
        ("peers", "denoiser: diffusers", faster),
        None,
        "at least 1.3",
        lambda x: x >= 1.3,
    )
    alike = "at least 1", lambda x: x >= 1
    yield Row(
        "diffusers' denoiser, compiled, x our time", ("peers", "denoiser: diffusers, compiled", faster), None, *alike
    )
    yield Row("ComfyUI's denoiser, x our time", ("peers", "denoiser: ComfyUI", faster))
    yield Row("diffusers' decoder, x our time", ("peers", "decoder: diffusers", faster), None, *alike)


def _judgement(result: Result | None) -> list[str]:
    """How many comparisons keep their bounds, and which do not."""
    if result is None:
        return []
    judged = {k: ok for name, line in result["lines"].items() for k, ok in verdicts(line["found"], (name,)).items()}
    missed = [place for place, ok in judged.items() if not ok]
    return [f"{len(judged) - len(missed)} of {len(judged)} comparisons are within their bounds.", *missed]


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
