"""A real CUDA device, on which every kernel is compared with its formula."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.gpu.kernels import precision
from tests.cuda.pretend.ledger import Ledger

KERNELS = "mochi_kernels"
"""The namespace of operators whose implementation on the CPU is the plain formula."""


class AgainstFormulas(TorchDispatchMode):
    """Computes what each kernel inside computes on the CPU too, from the same values, and compares.

    ledger: launches alone; a real device is not asked whether the host waited.
    """

    def __init__(self):
        super().__init__()
        self.ledger = Ledger()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if op.namespace != KERNELS:
            out = op(*args, **kwargs)
            self.ledger.launch(op, args, kwargs, out)
            return out
        on_cpu = tree_map(_cpu, args)
        out, expected = op(*args, **kwargs), op(*on_cpu, **kwargs)
        self.ledger.launch(op, args, kwargs, out)
        # Arguments too: some kernels write into them.
        for ours, theirs in zip(tree_leaves((out, args)), tree_leaves((expected, on_cpu)), strict=True):
            if isinstance(ours, Tensor):
                _compare(op, ours, theirs)
        return out


def _cpu(leaf: Any) -> Any:
    """A copy with the same strides."""
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype).copy_(leaf)


def _compare(op: Any, ours: Tensor, theirs: Tensor) -> None:
    """One number, computed in two orders: now and then it is rounded to the other neighbour."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, op
    bound = precision(ours.dtype, op._opname)
    ours, theirs = ours.cpu().double(), theirs.double()
    error = (ours - theirs).norm().item()
    assert error <= bound * theirs.norm().item(), f"{op}: {error} away from {theirs.norm()}"
