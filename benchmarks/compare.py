"""Contenders that do the same work: run in turns, their times, outputs and memory set side by side."""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Figures, add_option, report
from benchmarks.resident import resident, watched
from tests.exact import relative_error

Contenders = Mapping[str, Callable[[], Callable[[], Tensor]]]
"""Names -> what sets one up, and returns what runs it once. The first one is ours, and all are compared with it."""


Measure = Callable[[argparse.Namespace], Figures]
"""Work that has no contenders, and measures itself."""


def main(module: str, works: Mapping[str, Callable[[], Contenders]], measures: Mapping[str, Measure] | None = None):
    """The command line of a benchmark. works, measures: what is done, by the name to choose it with."""
    measures = measures or {}
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("work", nargs="?", choices=[*works, *measures], help="default: one after the other")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="these contenders")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what a process for one measurement gets
    add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_memory(works[options.work]()[options.memory_of])))
        return
    for work in [options.work] if options.work else [*works, *measures]:
        figures = measures[work](options) if work in measures else contest(module, work, works[work](), options)
        report(work, figures, options.json)


def contest(module: str, work: str, contenders: Contenders, options: argparse.Namespace) -> Figures:
    """Time and output of each, and its memory in a process of its own, beside those of the first one."""
    figures = compare({name: contenders[name] for name in options.only or contenders}, options.repeats)
    for name in figures:
        command = [sys.executable, "-m", module, work, "--threads", str(options.threads), "--memory-of", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures[name]["memory MB"] = json.loads(done.stdout.splitlines()[-1])
    first = next(iter(figures.values()))
    for f in figures.values():
        f["ours is faster, x"] = f["median s"] / first["median s"]
        f["ours takes, x"] = first["memory MB"] / f["memory MB"]
    return figures


@torch.inference_mode()
def compare(contenders: Contenders, repeats: int) -> dict[str, dict[str, Any]]:
    """Median seconds of each over runs in turns, behind one to warm up, and how far its output is from the first's."""
    runs = {name: set_up() for name, set_up in contenders.items()}
    outputs = {name: run() for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    right = next(iter(outputs.values()))
    return {
        name: {
            "median s": statistics.median(took),
            "best s": min(took),
            "differs": relative_error(outputs[name], right),
        }
        for name, took in seconds.items()
    }


@torch.inference_mode()
def peak_memory(set_up: Callable[[], Callable[[], Tensor]]) -> float:
    """MB that the first run takes at most beyond what was there before it: the process's own pages. Linux only."""
    run = set_up()
    gc.collect()
    base = resident()
    with watched() as peak:
        out = run()
    del out
    return (peak[0] - base) / 1e6
