"""Contenders that do the same work: run in turns, their times, outputs and memory set side by side."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Contenders = Mapping[str, Callable[[], Callable[[], Tensor]]]
"""Names -> what sets one up, and returns what runs it once. The first one is ours, and all are compared with it."""


def main(module: str, works: Mapping[str, Callable[[], Contenders]]) -> None:
    """The command line of a benchmark: a table, or JSON. works: what is done, by the name to choose it with."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("work", nargs="?", choices=works, help="default: one after the other")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each (default: %(default)s)")
    parser.add_argument("--only", nargs="+", help="these contenders")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # what a process for one measurement gets
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(peak_memory(works[options.work]()[options.memory_of])))
        return
    for work in [options.work] if options.work else works:
        contenders = works[work]()
        figures = compare({name: contenders[name] for name in options.only or contenders}, options.repeats)
        for name in figures:
            command = [sys.executable, "-m", module, work, "--threads", str(options.threads), "--memory-of", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[name]["memory MB"] = json.loads(done.stdout.splitlines()[-1])
        _print(work, figures, options.json)


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
    right = next(iter(outputs.values())).double()
    return {
        name: {
            "seconds": statistics.median(took),
            "fastest": min(took),
            "difference": ((outputs[name].double() - right).norm() / right.norm()).item(),
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


def resident() -> int:
    """Bytes of anonymous memory that this process has now."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


@contextmanager
def watched() -> Iterator[list[int]]:
    """Yields a list whose only element is the most anonymous memory so far."""
    peak, over = [resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _print(title: str, figures: Mapping[str, Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"title": title, "torch": torch.__version__, "contenders": figures}))
        return
    first = next(iter(figures.values()))
    print(title)
    print(f"{'':<28} {'median s':>9} {'best s':>9} {'ours is':>9} {'differs':>9} {'memory MB':>10} {'ours takes':>11}")
    for name, f in figures.items():
        speed, memory = f["seconds"] / first["seconds"], first["memory MB"] / f["memory MB"]
        row = f"{name:<28} {f['seconds']:>9.3f} {f['fastest']:>9.3f} {speed:>8.2f}x {f['difference']:>9.1e}"
        print(f"{row} {f['memory MB']:>10.0f} {memory:>10.2f}x")
