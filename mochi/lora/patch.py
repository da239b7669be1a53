"""Patches on a weight or a bias: what a LoRA makes of it, or another in its place.

These are the only patches there are: of LoRA files, of the host's nodes, on one device and on the ranks of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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

    @property
    def of_all_rows(self) -> bool:
        """Whether it takes all rows of the weight to patch any of them."""
        return False

    def scaled(self, strength: float) -> LoraPatch:
        """The patch at another strength."""
        return replace(self, scale=strength * self.scale)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Patch these rows of the weight, which `w` holds in float32, in place."""
        part, own = _shared(w, rows, self.start or 0, len(self.up))
        if len(part):
            part.mul_(self.base_scale).add_(self.difference(part, own).mul_(self.scale))

    def difference(self, part: Tensor, own: slice) -> Tensor:
        """Some rows of `up @ down`, in the shape of the part of the weight that they are for."""
        return (self.up[own].to(part) @ self.down.to(part)).view(part.shape)

    def to(self, device: torch.device | str) -> LoraPatch:
        """The patch with its factors on a device."""
        return replace(self, up=self.up.to(device), down=self.down.to(device))


@dataclass(frozen=True, eq=False)
class DoraPatch(LoraPatch):
    """A LoRA that gives the weight's rows, or its columns, lengths of their own (DoRA).

    The weight w becomes `w + strength * (magnitude * sum / norm - w)` with `sum = w + scale * up @ down`.

    Sources: `DoraLinearLayer` of PEFT, `weight_decompose` of ComfyUI.

    Attributes:
        magnitude: the lengths, (rows, 1) or (1, columns). A convolution has as many columns as input channels.
        norm_of_sum: whether rows are measured in `sum`, as PEFT does. Otherwise in w, as ComfyUI does. Columns are
            always measured in `sum`.
    """

    magnitude: Tensor = field(kw_only=True)
    norm_of_sum: bool = field(kw_only=True)
    strength: float = field(default=1.0, kw_only=True)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        return super().fits(shape) and tuple(self.magnitude.shape) in ((len(self.up), 1), (1, shape[1]))

    @property
    def of_all_rows(self) -> bool:
        """Whether it takes all rows of the weight to patch any of them."""
        return self.magnitude.shape != (len(self.up), 1)

    def scaled(self, strength: float) -> DoraPatch:
        """The patch at another strength."""
        return replace(self, strength=strength * self.strength)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Patch these rows of the weight, which `w` holds in float32, in place."""
        part, own = _shared(w, rows, self.start or 0, len(self.up))
        if not len(part):
            return
        part.mul_(self.base_scale)
        total = part + self.difference(part, own).mul_(self.scale)
        by_columns, kept = self.of_all_rows, int(self.of_all_rows)
        lengths = (self.magnitude if by_columns else self.magnitude[own]).to(part)
        others = [axis for axis in range(part.ndim) if axis != kept]
        measured = total if by_columns or self.norm_of_sum else part
        norm = torch.linalg.vector_norm(measured, dim=others, keepdim=True)
        factors = lengths.view(norm.shape) / (norm + torch.finfo(torch.float32).eps)
        part.lerp_(total.mul_(factors), self.strength)


@dataclass(frozen=True, eq=False)
class DiffPatch:
    """`weight + scale * diff`, on some rows of the weight or bias.

    Attributes:
        diff: (rows, ...).
        start: the first row that it is for.
    """

    diff: Tensor
    scale: float = 1.0
    start: int = 0

    of_all_rows = False

    def __str__(self) -> str:
        return f"a difference of {list(self.diff.shape)} from row {self.start} on"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        rows = len(self.diff)
        return 0 <= self.start <= shape[0] - rows and self.diff.numel() * shape[0] == rows * math.prod(shape)

    def scaled(self, strength: float) -> DiffPatch:
        """The patch at another strength."""
        return replace(self, scale=strength * self.scale)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Patch these rows of the weight, which `w` holds in float32, in place."""
        part, own = _shared(w, rows, self.start, len(self.diff))
        if len(part):
            part.add_(self.diff[own].to(part).view(part.shape), alpha=self.scale)


@dataclass(frozen=True, eq=False)
class ReplacePatch:
    """Another weight, of the same shape, in place of the weight."""

    weight: Tensor

    of_all_rows = False

    def __str__(self) -> str:
        return f"a weight of {list(self.weight.shape)}"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a whole weight of this shape can be patched."""
        return self.weight.shape == tuple(shape)

    def apply(self, w: Tensor, rows: slice) -> None:
        """Replace these rows of the weight, which `w` holds in float32, in place."""
        w.copy_(self.weight[rows])


AdapterPatch = LoraPatch | DiffPatch
"""What a LoRA file can have for a weight."""

WeightPatch = AdapterPatch | ReplacePatch


def _shared(w: Tensor, rows: slice, start: int, count: int) -> tuple[Tensor, slice]:
    """The part of `w`, some rows of a weight, for which there are patched ones; `count` are there from `start` on."""
    first, last = max(start, rows.start), min(start + count, rows.stop)
    last = max(first, last)
    return w[first - rows.start : last - rows.start], slice(first - start, last - start)


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
