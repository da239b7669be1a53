"""Patches on a weight: what a LoRA adds to it, or another weight in its place.

These are the only patches there are: of LoRA files, of the host's nodes, on one device and on the ranks of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import MochiError
from ..quant import QuantLinear


@dataclass(frozen=True, eq=False)
class LoraPatch:
    """`base_scale * weight + scale * up @ down`, on some rows of the weight or on all.

    Attributes:
        up: (rows, r).
        down: (r, columns). A convolution has as many columns as its kernels have weights.
        start: the first row of the weight that the patch is for. None: it must be for all rows.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0
    start: int | None = None
    base_scale: float = 1.0

    def __str__(self) -> str:
        return f"a LoRA of {list(self.up.shape)} @ {list(self.down.shape)} from row {self.start or 0} on"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        (rows, rank), (other_rank, columns) = self.up.shape, self.down.shape
        in_range = rows == shape[0] if self.start is None else 0 <= self.start <= shape[0] - rows
        return in_range and rank == other_rank and shape[0] * columns == math.prod(shape)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Patch these rows of the weight, which `w` holds in float32, in place."""
        start = self.start or 0
        first, last = max(start, rows.start), min(start + len(self.up), rows.stop)
        if first < last:
            part = w[first - rows.start : last - rows.start]
            difference = self.up[first - start : last - start].to(w) @ self.down.to(w)
            part.mul_(self.base_scale).add_(difference.view(part.shape).mul_(self.scale))

    def to(self, device: torch.device | str) -> LoraPatch:
        """The patch with its factors on a device."""
        return replace(self, up=self.up.to(device), down=self.down.to(device))


@dataclass(frozen=True, eq=False)
class ReplacePatch:
    """Another weight, of the same shape, in place of the weight."""

    weight: Tensor

    def __str__(self) -> str:
        return f"a weight of {list(self.weight.shape)}"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        return self.weight.shape == tuple(shape)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Replace these rows of the weight, which `w` holds in float32, in place."""
        w.copy_(self.weight[rows])


WeightPatch = LoraPatch | ReplacePatch


def apply_patches(
    name: str, weight: Tensor, patches: Sequence[WeightPatch], shape: Sequence[int], rows: slice | None = None
) -> Tensor:
    """Apply patches one after the other, in float32, and round once to the dtype of the weight.

    Args:
        name: of the parameter, for messages.
        weight: the rows of the parameter that are there.
        shape: of the whole parameter.
        rows: which rows of it `weight` has. None: all.

    Returns:
        A new tensor, which shares no memory with the weight and the patches.

    Raises:
        MochiError: a patch does not fit.
    """
    _check(name, patches, shape)
    w = weight.to(torch.float32, copy=True)
    for patch in patches:
        patch.apply(w, rows or slice(0, shape[0]))
    return w.to(weight.dtype)


def patch_quant_linear(layer: QuantLinear, name: str, patches: Sequence[WeightPatch], device: torch.device) -> None:
    """Have a layer patch its weight whenever it dequantises it. Without patches the weight is the file's.

    Args:
        name: of the weight, for messages.
        device: where the layer dequantises.

    Raises MochiError when a patch does not fit.
    """
    shape = (layer.out_features, layer.in_features)
    _check(name, patches, shape)
    # Factors are needed again and again. A whole weight on the device would cost the memory that quantising saves.
    here = [patch.to(device) if isinstance(patch, LoraPatch) else patch for patch in patches]
    layer.patch = (lambda weight: apply_patches(name, weight, here, shape)) if patches else None


def _check(name: str, patches: Sequence[WeightPatch], shape: Sequence[int]) -> None:
    for patch in patches:
        if not patch.fits(shape):
            raise MochiError(f"{name} is {list(shape)}: {patch} does not fit it")
