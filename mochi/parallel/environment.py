"""The environment of a rank, made on purpose: what the host or a shell set for itself does not reach it by accident."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Dropped, since they would change what a rank does. Among them PYTORCH_CUDA_ALLOC_CONF: ComfyUI chooses
# cudaMallocAsync there, under which NCCL's collectives run out of memory.
DROPPED = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "GLOO_",
    "GOMP_",
    "GROUP_RANK",
    "KMP_",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "MKL_",
    "NCCL_",
    "OMP_",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "RANK",
    "TORCHELASTIC_",
    "TORCH_DISTRIBUTED_",
    "TORCH_NCCL_",
    "WORLD_SIZE",
)
# Of those, what a person may well have set for the machine.
KEPT = ("NCCL_DEBUG", "NCCL_P2P_", "NCCL_SHM_", "NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_")


def rank_environment(inherited: Mapping[str, str], folder: Path, threads: int) -> dict[str, str]:
    """Environment variables of a rank with so many threads, whose temporary files go to `folder`."""
    passed = {name: value for name, value in inherited.items() if name.startswith(KEPT) or not name.startswith(DROPPED)}
    return {
        **passed,
        "TMPDIR": str(folder),
        # Ranks talk within the machine: nothing listens to other machines.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def threads_per_rank(ranks: int) -> int:
    """The processor's cores that this process may use, divided among the ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks)
