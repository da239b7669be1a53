"""What a machine of a cluster is: called on each of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import MochiError
from .machines import Cluster, Machine

PACKAGE = Path(__file__).parents[1]

Versions = dict[str, str]
"""By name: Python's and torch's version, and the digest of our code."""


def versions() -> Versions:
    """Those of this process. Imports no torch: a machine that lacks it is told from one that has another."""
    try:
        torch = importlib.metadata.version("torch").partition("+")[0]  # without the kind of GPU
    except importlib.metadata.PackageNotFoundError:
        torch = "none"
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "torch": torch, "Mochi's code": _digest()}


def _digest() -> str:
    """Of our package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def check_versions(cluster: Cluster, machines: Sequence[Machine]) -> None:
    """Raise MochiError that names machines which have other versions than this process."""
    theirs = cluster.call(machines, "cluster.facts:versions")
    own = versions()
    if wrong := [line for machine, has in zip(machines, theirs, strict=True) if (line := _differs(machine, has, own))]:
        raise MochiError(
            "The machines of the cluster must have the same versions as this one, which has "
            f"{', '.join(f'{name} {version}' for name, version in own.items())}. But {'; '.join(wrong)}. Install the "
            "same there, and start Ray in that environment."
        )


def _differs(machine: Machine, has: Mapping[str, str], own: Mapping[str, str]) -> str:
    other = [f"{name} {has.get(name, 'none')}" for name, version in own.items() if has.get(name) != version]
    return f"machine {machine.name} has {', '.join(other)}" if other else ""


def smallest_gpu(cluster: Cluster, machines: Sequence[Machine]) -> int | None:
    """Bytes of memory of the smallest GPU on any of the machines; None where that cannot be known."""
    found = cluster.call(machines, "cluster.facts:gpu_memory")
    return None if not all(found) else min(size for sizes in found for size in sizes)


def gpu_memory() -> list[int]:
    """Bytes of each GPU of the machine that is called, by its driver: Ray shows a call without GPUs none of them."""
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout
        return [int(line) * 2**20 for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
