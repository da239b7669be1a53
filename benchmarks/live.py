"""Bytes of tensors that are alive while something is computed."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """Counts storages from when an operation gives them out until nobody holds them. `peak` is the most so far.

    What an operation takes inside itself is not seen. before: tensors that were there, which do not count.
    """

    def __init__(self, before: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(t.untyped_storage() for t in before)

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = operation(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


class WithoutValues(FakeTensorMode):
    """Tensors made inside have a size and a place in memory, but no values: what is computed takes no time. They are
    alive as long as real ones, byte for byte, where the network's way does not depend on values."""

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten.mkldnn_convolution.default:  # of which torch does not know what it gives out
            x, weight, bias, padding, stride, dilation, groups = args
            operation = torch.ops.aten.convolution.default
            args = (x, weight, bias, stride, padding, dilation, False, [0] * len(padding), groups)
        return super().__torch_dispatch__(operation, types, args, kwargs)


def peak_bytes(compute: Callable[[], Any], before: Iterable[Tensor] = ()) -> int:
    """The most bytes of new tensors that are alive at a time in `compute`."""
    # Not inference_mode, under which operations that are made of others are seen as one.
    with torch.no_grad(), LiveBytes(before) as live:
        compute()
    return live.peak
