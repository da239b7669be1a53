"""The environment variables of a worker. What the host or a shell has set for itself does not reach it."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"

DROPPED = re.compile(
    r"""
    CUDA_LAUNCH_BLOCKING | CUDA_MODULE_LOADING | GLOO_ | GOMP_ | GROUP_RANK | KMP_ | LOCAL_RANK | LOCAL_WORLD_SIZE |
    MASTER_ADDR | MASTER_PORT | MKL_ | NCCL_ | OMP_ | PYTHONSTARTUP | PYTORCH_ALLOC_CONF |
    PYTORCH_CUDA_ALLOC_CONF | RANK | TORCHELASTIC_ | TORCH_DISTRIBUTED_ | TORCH_NCCL_ | WORLD_SIZE
    """,
    re.VERBOSE,
)
"""Beginnings of the names of variables that would change what a rank does. ComfyUI sets PYTORCH_CUDA_ALLOC_CONF to
cudaMallocAsync, under which NCCL's collectives run out of memory."""

KEPT = re.compile(
    r"""
    NCCL_ALGO | NCCL_BUFFSIZE | NCCL_CONF_FILE | NCCL_CROSS_NIC | NCCL_CUMEM_ | NCCL_DEBUG | NCCL_DMABUF_ |
    NCCL_GRAPH_ | NCCL_IB_ | NCCL_IGNORE_ | NCCL_LAUNCH_ORDER_ | NCCL_MAX_ | NCCL_MIN_ | NCCL_MNNVL_ | NCCL_NET |
    NCCL_NVLS_ | NCCL_P2P_ | NCCL_PROTO | NCCL_SHM_ | NCCL_TOPO_
    """,
    re.VERBOSE,
)
"""Those that are kept: a person may have set them for the machine, how its GPUs are connected and what NCCL may use."""


def rank_environment(inherited: Mapping[str, str], folder: Path, threads: int) -> dict[str, str]:
    """Environment variables of a rank with so many threads, whose temporary files go to `folder`."""
    passed = {name: value for name, value in inherited.items() if KEPT.match(name) or not DROPPED.match(name)}
    if Path(passed.get(INDUCTOR, "")).parent == Path(tempfile.gettempdir()):
        del passed[INDUCTOR]  # inductor's own choice, which it leaves in the environment of a process that has used it
    if packages := passed.get("PYTHONPATH"):  # where torch may be; a rank works in another folder
        passed["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, packages.split(os.pathsep)))
    return {
        # FSDP gathers weights over one communicator while Ulysses exchanges tokens over another. Each takes some of the
        # GPU's blocks and waits in them for its peers: taken in another order on another GPU, both wait for ever. With
        # this, NCCL 2.26 and newer start them in the order of the calls, which is the same on all ranks.
        "NCCL_LAUNCH_ORDER_IMPLICIT": "1",
        **_compile_caches(inherited, folder),
        # Inductor would start a process for each core, in each rank.
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        **passed,
        "TMPDIR": str(folder),
        # Ranks talk within the machine: nothing listens to other machines.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        # One setting, by its earlier name and its present one.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def _compile_caches(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Folders for compiled code: in the user's cache, where the next ranks find it, or else in `folder`."""
    home = inherited.get("HOME")
    user = inherited.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    caches = Path(user, "mochi-parallel") if user else folder
    try:
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        caches = folder
    if not os.access(caches, os.W_OK):
        caches = folder
    # A home can be that of several machines, whose processors inductor does not tell apart: it would take code made for
    # wider vectors, and compute nonsense.
    processor = torch.backends.cpu.get_cpu_capability().lower().replace(" ", "-")
    return {INDUCTOR: f"{caches}/torchinductor-{processor}", "TRITON_CACHE_DIR": f"{caches}/triton"}


def threads_per_rank(ranks: int) -> int:
    """The processor's cores that this process may use, divided among the ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks)
