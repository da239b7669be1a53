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
from .pairs import find_pairs
from .patch import LoraPatch
from .scale import Scales

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, int]]
"""Rows and columns of a model's weights, by layer: a name without `.weight`."""


@dataclass(frozen=True)
class Lora:
    """The contents of a LoRA file.

    Attributes:
        layers: what it adds to the weight of each layer.
        shapes: rows and columns of the whole weights that it is for.
    """

    path: Path
    layers: dict[str, tuple[LoraPatch, ...]]
    shapes: dict[str, tuple[int, int]]

    def fitted(self, shapes: Shapes) -> Lora:
        """The part of it that is for layers of this model. A warning counts the others.

        Raises CheckpointError when there is no such part, or when it is for weights of other sizes.
        """
        layers = {name: patches for name, patches in self.layers.items() if name in shapes}
        missing = self.layers.keys() - layers.keys()
        if not layers:
            raise CheckpointError(
                f"{self.path}: a LoRA for layers that this model does not have ({first_few(missing)}); it has "
                f"{first_few(shapes)}"
            )
        misshapen = [
            f"{name} is for {list(self.shapes[name])}, but the model's is {list(shapes[name])}"
            for name in layers
            if self.shapes[name] != shapes[name]
        ]
        if misshapen:
            raise CheckpointError(
                f"{self.path}: a LoRA for a model of other sizes: {len(misshapen)} of its layers do not fit "
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
    scales = Scales(file)
    lora = Lora(file.path, {}, {})
    for pair in find_pairs(file):
        layer, part = pair.place.layer, pair.place.part
        shape = lora.shapes.setdefault(layer, pair.shape)
        if shape != pair.shape:
            raise CheckpointError(
                f"{file.path}: its parts for {layer} are for weights of different sizes, {list(shape)} and "
                f"{list(pair.shape)}"
            )
        up, down = (_values(entry, f"{file.path}: {pair.stem}") for entry in (pair.up, pair.down))
        up = swap_halves(up) if pair.place.swapped else up
        patch = LoraPatch(up, down, scales.scale(pair), start=part * len(up))
        lora.layers[layer] = (*lora.layers.get(layer, ()), patch)
    return lora


def check_lora(path: str | Path) -> None:
    """Raise CheckpointError unless the file is a LoRA for an AsymmDiT, of whatever size. Reads no factors."""
    file = Checkpoint.open(path)
    scales = Scales(file)
    for pair in find_pairs(file):
        scales.scale(pair)


def swap_halves(rows: Tensor) -> Tensor:
    """The rows, with their second half first."""
    return torch.cat(rows.tensor_split(2)[::-1])


def _values(entry: LazyTensor, whose: str) -> Tensor:
    values = entry.read().flatten(1)
    if not values.float().isfinite().all():
        raise CheckpointError(
            f"{whose} has values that are no numbers (NaN or infinite): the file is damaged; download it again"
        )
    return values
