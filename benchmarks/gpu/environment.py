"""The machine: card, driver, libraries, and the rates that it reaches in products and copies, which the paper model
takes its constants from."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from .measuring import milliseconds
from .setting import Part, Setting

SIDE, SMALL_SIDE = 8192, 512
"""Of the square matrices that are multiplied."""
COPIED, SMALL_COPIED = 1 << 32, 1 << 24
"""Bytes that are copied on the device; a quarter of them from the host."""


def section(s: Setting) -> Iterator[Part]:
    yield "machine", lambda: machine(s)
    yield "products", lambda: products(s)
    yield "copies", lambda: copies(s)


def machine(s: Setting) -> dict[str, Any]:
    found = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": _triton(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if not s.cuda:
        return {"card": "CPU", **found}
    card = torch.cuda.get_device_properties(s.device)
    return {
        "card": card.name,
        "memory GB": card.total_memory / 1e9,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "driver": _driver(),
        **found,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else None,
    }


def products(s: Setting) -> dict[str, float]:
    side = SMALL_SIDE if s.small else SIDE
    a, b = s.random(side, side), s.random(side, side)
    taken = milliseconds(lambda: a @ b, s.device, repeats=10, warm=3)
    return {**taken, "TFLOP/s": 2 * side**3 / taken["ms"] / 1e9}


def copies(s: Setting) -> dict[str, float]:
    """GB a second. On the device a byte counts twice, read and written."""
    size = SMALL_COPIED if s.small else COPIED
    here, there = (torch.empty(size, dtype=torch.uint8, device=s.device) for _ in range(2))
    part, host = here[: size // 4], torch.zeros(size // 4, dtype=torch.uint8)
    rates = {"on the device GB/s": 2 * size / milliseconds(lambda: there.copy_(here), s.device, 5)["ms"] / 1e6}
    ways = {"from pageable memory": (part, host), "to pageable memory": (host, part)}
    if s.cuda:
        pinned = host.pin_memory()
        ways |= {"from pinned memory": (part, pinned), "to pinned memory": (pinned, part)}
    for name, (to, source) in ways.items():
        rates[f"{name} GB/s"] = part.nbytes / milliseconds(lambda t=to, f=source: t.copy_(f), s.device)["ms"] / 1e6
    return rates


def _triton() -> str | None:
    if find_spec("triton") is None:
        return None
    import triton

    return triton.__version__


def _driver() -> str | None:
    """As nvidia-smi has it; None where that does not run."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
