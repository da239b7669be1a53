"""Seconds, memory, and the kernels that work starts: of a CUDA device, or of a CPU to test the kit."""

import re
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.live import peak_bytes
from mochi import kernels

Run = Callable[[], Any]

CLASSES = {
    "attention": r"sdpa|flash|fmha|attention|mha_",
    "communication": r"nccl|gloo",
    "compiled": r"^triton_",
    "convolutions": r"conv|implicit|dgrad|fprop|wgrad",
    "products": r"gemm|cutlass|nvjet|xmma|cublas|_mm\b|\b(add|b)?mm\b|::linear|matmul",
    "copies": r"memcpy|memset|copy|CatArray|::cat\b|::clone|contiguous",
    "norms": r"norm|moments",
    "elementwise": r"elementwise|vectorized|reduce|index|softmax|::(add|mul|silu|tanh|sub|div|cos|sin|exp)",
}
"""Classes of kernels by their names; the first that matches counts. Those of mochi/kernels are a class of their own."""

LONGEST = 12
"""Kernels that a profile names."""

# What the profiler puts on the device's line of time besides kernels.
_NO_KERNEL = re.compile(r"^((Context|Stream|Event) Sync|Stream Wait Event|Event Record|ProfilerStep|Torch-Compiled|##)")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Run, device: torch.device, repeats: int = 3, warm: int = 1) -> dict[str, float]:
    """Median and best of some runs, after some to warm up."""
    for _ in range(warm):
        run()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        taken.append(1e3 * (time.perf_counter() - started))
    return {"ms": statistics.median(taken), "best ms": min(taken)}


def peak(run: Run, device: torch.device) -> dict[str, float]:
    """GB that a run takes at most beyond what is there before it: tensors, and what the allocator reserves for them."""
    if device.type != "cuda":
        return {"peak beyond GB": peak_bytes(run) / 1e9}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    tensors, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    run()
    synchronize(device)
    return {
        "peak GB": torch.cuda.max_memory_allocated(device) / 1e9,
        "peak beyond GB": (torch.cuda.max_memory_allocated(device) - tensors) / 1e9,
        "reserved beyond GB": (torch.cuda.max_memory_reserved(device) - reserved) / 1e9,
    }


def judged(found: float, bound: float, **more: Any) -> dict[str, Any]:
    """An error beside the bound that it must keep."""
    return {"error": found, "bound": bound, "ok": found <= bound, **more}


def beside(found: Mapping[str, float], predicted: float) -> dict[str, float]:
    """What `peak` found beside the GB that were predicted."""
    return {**found, "predicted beyond GB": predicted, "found / predicted": found["peak beyond GB"] / predicted}


def explained(taken: Mapping[str, float], run: Run, device: torch.device) -> dict[str, Any]:
    """What `milliseconds` found, and what that time goes to.

    limit: of products, convolutions and attention alone, which are what they are whoever calls them; None where no
    profile tells.
    """
    profile = profiled(run, device)
    limit = products_alone(profile)
    beyond = taken["ms"] / limit if limit else None
    return {**taken, "limit ms": limit, "beyond limit x": beyond, "profile": profile}


def all_kernels_ran() -> dict[str, str]:
    """Empty, or the failure that figures with kernels are once plain torch has taken the place of one."""
    failed = ", ".join(sorted(kernels.failed_kernels()))
    return {"failed": f"plain torch took the place of {failed}", "where": "see warnings"} if failed else {}


def profiled(run: Run, device: torch.device) -> dict[str, Any]:
    """Milliseconds and launches of a run's kernels by class, and the longest kernels. On a CPU operations stand for
    kernels. "no profile": why there is none, where the profiler fails."""
    try:
        spans = list(_spans(run, device))
    except Exception as problem:
        return {"no profile": f"{type(problem).__name__}: {problem}"}
    if not spans:
        return {"no profile": "the profiler saw no kernel"}
    taken, launches, longest = Counter(), Counter(), Counter()
    for kernel, spent in spans:
        name = class_of(kernel)
        taken[name] += spent
        launches[name] += 1
        longest[kernel[:100]] += spent
    return {
        "kernels ms": sum(taken.values()),
        "ms by class": dict(taken.most_common()),
        "launches": sum(launches.values()),
        "launches by class": dict(launches.most_common()),
        "longest": dict(longest.most_common(LONGEST)),
    }


def _spans(run: Run, device: torch.device) -> Iterator[tuple[str, float]]:
    """The kernels of a run, with milliseconds."""
    on_cuda = device.type == "cuda"
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as recorded:
        run()
        synchronize(device)
    kind = torch.autograd.DeviceType.CUDA if on_cuda else torch.autograd.DeviceType.CPU
    for event in recorded.events():
        if event.device_type != kind or _NO_KERNEL.match(event.name) or getattr(event, "is_user_annotation", False):
            continue
        yield event.name, (event.time_range.elapsed_us() if on_cuda else event.self_cpu_time_total) / 1e3


def class_of(kernel: str) -> str:
    if kernel in our_kernels():
        return "ours"
    return next((name for name, pattern in CLASSES.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")


@lru_cache
def our_kernels() -> frozenset[str]:
    """Names of the Triton kernels in mochi/kernels, by which the profiler calls them."""
    kernel = re.compile(r"@triton\.jit.*?\ndef (\w+)", re.DOTALL)
    sources = (file.read_text(encoding="utf-8") for file in Path(kernels.__file__).parent.glob("*.py"))
    return frozenset(name for source in sources for name in kernel.findall(source))


def host_stops(run: Run, device: torch.device) -> dict[str, int]:
    """How often the host waits for the device in a run, by the line that makes it wait. Empty on a CPU."""
    if device.type != "cuda":
        return {}
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    stops = Counter(_short(w.filename, w.lineno) for w in told if "called a synchronizing" in str(w.message))
    return dict(stops.most_common())


def products_alone(profile: Mapping[str, Any]) -> float | None:
    """Milliseconds of a profile's products, convolutions and attention: what no other code could leave out. None where
    it has none."""
    taken = profile.get("ms by class", {})
    return sum(taken.get(name, 0.0) for name in ("products", "convolutions", "attention")) or None


def _short(file: str, line: int) -> str:
    """Of a place in this project the path from there, of others the file's name."""
    path = file.replace("\\", "/").split("/")
    inside = next((i for i, folder in enumerate(path) if folder in ("mochi", "benchmarks")), len(path) - 1)
    return f"{'/'.join(path[inside:])}:{line}"
