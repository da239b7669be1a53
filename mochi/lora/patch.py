"""Patches on a weight: what a LoRA adds to it, or another weight in its place.

These are the only patches there are: of LoRA files, of the host's nodes, on one device and on the ranks of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import MochiError


@dataclass(frozen=True, eq=False)
class LoraPatch:
    """`base_scale * weight + scale * up @ down`, on some rows of the weight or on all.

    Attributes:
        up: (rows, r). Trailing dimensions of size 1, as of a convolution, do not count.
        down: (r, columns); or (r, ...), of a convolution.
        start: the first row of the weight that the patch is for. None: it must be for all rows.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0
    start: int | None = None
    base_scale: float = 1.0

    def __str__(self) -> str:
        up, down = self.up.flatten(1), self.down.flatten(1)
        return f"a LoRA of {list(up.shape)} @ {list(down.shape)} from row {self.start or 0} on"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        start = self.start or 0
        in_range = start >= 0 and start + len(up) <= shape[0] if self.start is not None else len(up) == shape[0]
        return in_range and up.shape[1] == down.shape[0] and shape[0] * down.shape[1] == torch.Size(shape).numel()

    def apply(self, w: Tensor, rows: slice) -> None:
        """Patch these rows of the weight, which `w` holds in float32, in place."""
        start = self.start or 0
        first, last = max(start, rows.start), min(start + len(self.up), rows.stop)
        if first < last:
            part = w[first - rows.start : last - rows.start]
            difference = self.up.flatten(1)[first - start : last - start].to(w) @ self.down.flatten(1).to(w)
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

    def to(self, device: torch.device | str) -> ReplacePatch:
        """The patch with its weight on a device."""
        return replace(self, weight=self.weight.to(device))


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
    w = weight.to(torch.float32, copy=True)
    for patch in patches:
        if not patch.fits(shape):
            raise MochiError(f"{name} is {list(shape)}: {patch} does not fit it")
        patch.apply(w, rows or slice(0, shape[0]))
    return w.to(weight.dtype)
