"""A tensor that says it is on cuda:0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .runtime import wait

CUDA = torch.device("cuda", 0)


class OnCuda(Tensor):
    """Stands for `held`, a tensor on the CPU (with values) or on the meta device (without); views hold views of it."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCuda:
        assert type(held) is Tensor, f"{type(held).__name__} cannot be held"
        sizes = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), device=CUDA, layout=held.layout, **sizes)
        made.held = held
        return made

    def __init__(self, held: Tensor):
        super().__init__()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        raise RuntimeError(f"{op} of a tensor on CUDA, outside of PretendCuda")

    def __repr__(self) -> str:
        return f"OnCuda({self.held})"

    def tolist(self) -> Any:
        wait("tolist")
        return self.held.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """What FSDP frees and takes anew."""
        return self.held.untyped_storage()

    def record_stream(self, stream: Any) -> None:
        """There is no allocator to tell."""
