"""A LoRA file, read: under our names, whatever wrote it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..checkpoint.lazy import LazyTensor
from ..errors import CheckpointError, first_few
from .names import depth_of
from .pairs import Pair, find_pairs
from .scale import Scales

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, int]]
"""Rows and columns of a model's weights, by layer: a name without `.weight`."""


@dataclass(frozen=True)
class Factors:
    """What a LoRA adds to some rows of a weight: `scale * up @ down`, from row `start` on.

    up (rows, r), down (r, columns). shape: rows and columns of the whole weight that it was made for.
    """

    up: Tensor
    down: Tensor
    scale: float
    start: int
    shape: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Whether it covers all rows."""
        return len(self.up) == self.shape[0]


@dataclass(frozen=True)
class Lora:
    """path: of the file. layers: what it adds to the weight of each layer."""

    path: Path
    layers: dict[str, tuple[Factors, ...]]

    def fitted(self, shapes: Shapes) -> Lora:
        """The part of it that is for layers of this model; a warning counts others.

        Raises CheckpointError when there is no such part, or its shapes are others.
        """
        missing = self.layers.keys() - shapes.keys()
        if len(missing) == len(self.layers):
            raise CheckpointError(
                f"{self.path}: a LoRA for layers that this model does not have ({first_few(missing)}); it has "
                f"{first_few(shapes)}"
            )
        layers = {name: factors for name, factors in self.layers.items() if name in shapes}
        misshapen = [
            f"{name} is for {list(factors.shape)}, but the model's is {list(shapes[name])}"
            for name, several in layers.items()
            for factors in several
            if factors.shape != shapes[name]
        ]
        if misshapen:
            raise CheckpointError(
                f"{self.path}: a LoRA for a model of other sizes: {len(misshapen)} of its parts do not fit "
                f"({first_few(misshapen, 2)})"
            )
        if missing:
            log.warning("%s: %d layers are not in this model (%s)", self.path, len(missing), first_few(missing))
        blocks, depth = depth_of(layers), depth_of(shapes)
        if depth / 2 < blocks < depth:  # CogVideoX 5B has layers of the same names and sizes, in 42 blocks
            log.warning("%s: only for the first %d of %d blocks; is it for another model?", self.path, blocks, depth)
        return replace(self, layers=layers)


def read_lora(path: str | Path) -> Lora:
    """A LoRA for the AsymmDiT from a safetensors file, as written by the published trainer, diffusers and PEFT, kohya's
    scripts, or for ComfyUI.

    Raises CheckpointError on anything else, on an incomplete file, and on values that are no numbers.
    """
    file = Checkpoint.open(path)
    pairs, scales = find_pairs(file), Scales(file)
    layers: dict[str, tuple[Factors, ...]] = {}
    for pair in pairs:
        layers[pair.place.layer] = (*layers.get(pair.place.layer, ()), _factors(file, pair, scales.scale(pair)))
    return Lora(file.path, layers)


def check_lora(path: str | Path) -> None:
    """Raise CheckpointError unless the file is a LoRA for an AsymmDiT, of whatever size. Reads no factors."""
    file = Checkpoint.open(path)
    pairs, scales = find_pairs(file), Scales(file)
    for pair in pairs:
        scales.scale(pair)


def swap_halves(rows: Tensor) -> Tensor:
    """The second half of the rows before the first."""
    return torch.cat(rows.tensor_split(2)[::-1])


def _factors(file: Checkpoint, pair: Pair, scale: float) -> Factors:
    up, down = (_values(file, pair, entry) for entry in (pair.up, pair.down))
    if pair.place.swapped:
        up = swap_halves(up)
    rows, (_, part, parts, _) = len(up), pair.place
    return Factors(up, down, scale, part * rows, (parts * rows, down.shape[1]))


def _values(file: Checkpoint, pair: Pair, entry: LazyTensor) -> Tensor:
    values = entry.read().flatten(1)
    if not values.float().isfinite().all():
        raise CheckpointError(
            f"{file.path}: {pair.stem} has values that are no numbers (NaN or infinite): the file is damaged; download "
            "it again"
        )
    return values
