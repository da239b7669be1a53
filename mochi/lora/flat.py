"""Patches as few long tensors, to send them to other processes.

Each tensor that crosses by itself costs open files, and a LoRA on all blocks has more than a process may open.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .patch import WeightPatch

FlatPatches = tuple[dict[str, list[tuple[type, dict[str, Any]]]], dict[torch.dtype, Tensor]]
"""Class and fields of each patch, by parameter, in which a tensor is (dtype, first element, shape); and one long tensor
of each dtype."""


def flatten_patches(patches: Mapping[str, Sequence[WeightPatch]]) -> FlatPatches:
    """Join the tensors of patches, one after the other, on the CPU."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        first = ends.get(value.dtype, 0)
        parts.setdefault(value.dtype, []).append(value.cpu().flatten())
        ends[value.dtype] = first + value.numel()
        return value.dtype, first, tuple(value.shape)

    def placed(patch: WeightPatch) -> tuple[type, dict[str, Any]]:
        return type(patch), {name: place(value) for name, value in vars(patch).items()}

    plan = {name: [placed(patch) for patch in several] for name, several in patches.items()}
    return plan, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}


def restore_patches(flat: FlatPatches) -> dict[str, list[WeightPatch]]:
    """The patches that were flattened; their tensors are views."""
    plan, long = flat

    def found(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        dtype, first, shape = value
        return long[dtype][first : first + torch.Size(shape).numel()].view(shape)

    def restored(kind: type, values: dict[str, Any]) -> WeightPatch:
        return kind(**{name: found(value) for name, value in values.items()})

    return {name: [restored(*patch) for patch in several] for name, several in plan.items()}
