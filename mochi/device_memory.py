"""The device of this process, how much memory a rank holds on its own, and how much it can have."""

import ctypes
import gc
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch


def usual_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def memory_used(device: torch.device) -> int:
    """Bytes that this process holds on its device; on a CPU its resident memory, shared pages of files left out."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (resident - shared) * os.sysconf("SC_PAGESIZE")


def memory_free(device: torch.device) -> int:
    """Bytes that this process can still have on a CUDA device, those included that its allocator holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def give_back(device: torch.device) -> None:
    """Return memory that is no longer used to the device, for other processes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        if hasattr(torch._C, "_host_emptyCache"):  # pinned memory, of offloaded weights
            torch._C._host_emptyCache()
    trim_heap()


def trim_heap() -> None:
    """Return what is free in the heap to the system; glibc keeps it, up to some hundred megabytes a process."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def speaks_of_no_memory(text: str) -> bool:
    """Whether an error or a log says that memory was not enough, in the words of any library."""
    return _NO_MEMORY.search(text) is not None


_NO_MEMORY = re.compile(
    "|".join(
        (
            "out of memory",  # torch, CUDA, and NCCL, which quotes CUDA
            "cudaErrorMemoryAllocation",
            "CUBLAS_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_(\w+_)?ALLOC(ATION)?_FAILED",
            r"Failed to CUDA (host )?\w*alloc",  # NCCL
            "[Cc]an(no|')t allocate memory",  # the system, and torch on the CPU
        )
    )
)
