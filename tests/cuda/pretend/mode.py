"""The rules of a CUDA device: where results are, and which tensors may meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from . import runtime
from .kernels import STAND_INS
from .ledger import Ledger, place
from .tensor import OnCuda
from .waits import INDEXES, Pinned, wait_of

CROSSES = {"copy_", "_to_copy"}
WHOLE = {*STAND_INS, "_fused_rms_norm", "pin_memory"}
"""Operators that CUDA has a kernel for, or that are answered here, though they can be taken apart."""


class DeviceMismatch(RuntimeError):
    """Tensors of different devices met."""


class PretendCuda(TorchDispatchMode):
    """All that runs inside may name cuda:0, and `ledger` notes what that device has to do.

    values: whether tensors have any. Without, shapes and memory are right, and whatever reads a value fails.
    """

    def __init__(self, values: bool = True):
        super().__init__()
        runtime.install()
        self.ledger = Ledger()
        self._holder = torch.device("cpu" if values else "meta")
        self._pinned = Pinned()

    def __enter__(self) -> PretendCuda:
        runtime.noting.append(self.ledger)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        runtime.noting.pop()
        super().__exit__(*error)

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        name, kwargs = op.overloadpacket.__name__, kwargs or {}
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
            return op(*args, **kwargs)  # DTensor asks for the shape of a result, which nothing computes
        leaves = tree_leaves((args, kwargs))
        tensors = [t for t in leaves if isinstance(t, Tensor)]
        if any(type(t) not in (Tensor, nn.Parameter, OnCuda) for t in tensors):
            return NotImplemented  # DTensor and the like, which call again for what they hold
        on_cuda = [t for t in tensors if isinstance(t, OnCuda)]
        asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        if op.namespace == "c10d":
            return self._collective(op, args, kwargs, tensors)
        if not on_cuda and (asked is None or asked.type != "cuda" or name.endswith(("is_pinned", "pin_memory"))):
            return self._on_cpu(op, name, args, kwargs)
        if name == "_has_compatible_shallow_copy_type":
            return len(on_cuda) == len(tensors)
        if name not in WHOLE and op.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd):
            with self:
                return op.decompose(*args, **kwargs)
        goes_to_cuda = self._destination(name, args, on_cuda, asked)
        self._check_devices(op, name, tensors, on_cuda)
        if wait := wait_of(name, args, kwargs, goes_to_cuda, self._pinned):
            self.ledger.stop(wait)
        out = self._held_result(op, name, args, kwargs, on_cuda, goes_to_cuda)
        self.ledger.launch(op, args, kwargs, out)
        return out

    def _on_cpu(self, op: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        if name == "is_pinned":
            return args[0] in self._pinned
        if name in ("pin_memory", "_pin_memory"):
            return self._pinned.add(args[0].clone())
        if kwargs.get("pin_memory"):
            return self._pinned.add(op(*args, **{**kwargs, "pin_memory": False}))
        return op(*args, **kwargs)

    def _destination(self, name: str, args: tuple, on_cuda: list[OnCuda], asked: torch.device | None) -> bool:
        if name == "copy_":
            return isinstance(args[0], OnCuda)
        return asked.type == "cuda" if asked is not None else bool(on_cuda)

    def _check_devices(self, op: Any, name: str, tensors: list[Tensor], on_cuda: list[OnCuda]) -> None:
        """A number on the CPU may meet any tensor; others only to be copied, or as indices."""
        if name in CROSSES or not on_cuda or (name in INDEXES and isinstance(tensors[0], OnCuda)):
            return
        if any(t.dim() > 0 for t in tensors if not isinstance(t, OnCuda)):
            found = ", ".join(f"{tuple(t.shape)} on {t.device.type}" for t in tensors)
            raise DeviceMismatch(f"{op} of {found}, at {place()}")

    def _held_result(
        self, op: Any, name: str, args: tuple, kwargs: dict[str, Any], on_cuda: list[OnCuda], goes_to_cuda: bool
    ) -> Any:
        """Compute with what the tensors hold; an argument that comes back does so as the tensor that it was."""

        def held(leaf: Any) -> Any:
            if isinstance(leaf, OnCuda):
                return leaf.held
            if isinstance(leaf, Tensor) and self._holder.type == "meta":
                return leaf.to("meta")
            return self._holder if isinstance(leaf, torch.device) else leaf

        if not goes_to_cuda and self._holder.type == "meta":  # to a CPU that has no values either
            like = {"dtype": kwargs.get("dtype"), "device": "cpu"}
            return args[0] if name == "copy_" else torch.empty_like(args[0].held, **like)
        kwargs = {**kwargs, "pin_memory": False} if kwargs.get("pin_memory") else kwargs
        out = STAND_INS.get(name, op)(*tree_map(held, args), **tree_map(held, kwargs))
        if not goes_to_cuda:
            return out
        back = {id(t.held): t for t in on_cuda}
        return tree_map(lambda t: _wrapped(t, back), out)

    def _collective(self, op: Any, args: tuple, kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        """Among what the tensors hold. Without values nothing is sent: a fake process group takes anything."""
        self.ledger.collective(op.overloadpacket.__name__, tensors)
        if len({t.device for t in tensors}) > 1:
            raise DeviceMismatch(f"{op} of tensors on CUDA and on the CPU, at {place()}")
        cuda = [t for t in tensors if isinstance(t, OnCuda)]
        sent = {id(t): torch.empty_like(t.held, device="cpu") if t.held.is_meta else t.held for t in cuda}
        back = {id(sent[id(t)]): t for t in cuda}
        args, kwargs = tree_map(lambda leaf: sent.get(id(leaf), leaf), (args, kwargs))
        return tree_map(lambda leaf: back.get(id(leaf), leaf), op(*args, **kwargs))


def _wrapped(t: Any, back: dict[int, OnCuda]) -> Any:
    if not isinstance(t, Tensor):
        return t
    return back[id(t)] if id(t) in back else OnCuda(t)
