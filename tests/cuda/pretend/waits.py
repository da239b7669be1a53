"""What makes the host wait for a CUDA device: values that it reads, and copies that are not asynchronous."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .tensor import OnCuda

READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"),
    *("unique_consecutive", "bincount", "histc"),
}
"""Operators whose result, or its shape, is made of values that the host has to have."""

INDEXES = {"index", "index_put", "index_put_", "_unsafe_index"}


class Pinned:
    """Memory of the host that a device copies from and to by itself."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}

    def add(self, t: Tensor) -> Tensor:
        self._storages[t.untyped_storage()._cdata] = StorageWeakRef(t.untyped_storage())
        return t

    def __contains__(self, t: Tensor) -> bool:
        storage = self._storages.get(t.untyped_storage()._cdata)
        return storage is not None and not storage.expired()


def wait_of(name: str, args: tuple, kwargs: dict[str, Any], goes_to_cuda: bool, pinned: Pinned) -> str | None:
    """What makes the host wait in an operator whose result is, or is not, on CUDA; None if nothing does."""
    if name in INDEXES:
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        if any(i.dtype in (torch.bool, torch.uint8) or not isinstance(i, OnCuda) for i in indices):
            return f"{name} by a mask, or by indices on the CPU"
    if name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        return name
    if name == "copy_":
        target, source, *rest = args
        if isinstance(target, OnCuda) == isinstance(source, OnCuda):
            return None
        non_blocking = kwargs.get("non_blocking", bool(rest) and rest[0])
        if non_blocking and (source if goes_to_cuda else target) in pinned:
            return None
    elif name == "_to_copy":
        if isinstance(args[0], OnCuda) == goes_to_cuda:
            return None
        # Of an asynchronous copy to the CPU, torch itself pins the memory.
        if kwargs.get("non_blocking") and (not goes_to_cuda or args[0] in pinned):
            return None
    else:
        return None
    return "copy to CUDA" if goes_to_cuda else "copy to the CPU"
