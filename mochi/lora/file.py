"""A LoRA file, read: under our names, whatever wrote it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, first_few
from .adapters import find_adapters
from .build import patches_of
from .names import depth_of
from .patch import AdapterPatch
from .scale import Scales

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each weight and bias of a model: (rows, columns), a convolution's too, or (rows,)."""


@dataclass(frozen=True)
class Lora:
    """The contents of a LoRA file.

    Attributes:
        patches: what it does to each weight and bias, by the parameter's name.
        shapes: of the whole parameters that it is for.
    """

    path: Path
    patches: dict[str, tuple[AdapterPatch, ...]]
    shapes: dict[str, tuple[int, ...]]

    def fitted(self, shapes: Shapes) -> Lora:
        """The part of it that is for parameters of this model. A warning counts the others.

        Raises CheckpointError when there is no such part, or when it is for weights of other sizes.
        """
        patches = {name: several for name, several in self.patches.items() if name in shapes}
        missing = self.patches.keys() - patches.keys()
        if not patches:
            raise CheckpointError(
                f"{self.path}: a LoRA for layers that this model does not have ({first_few(missing)}); it has "
                f"{first_few(shapes)}"
            )
        misshapen = [
            f"{name} is for {list(self.shapes[name])}, but the model's is {list(shapes[name])}"
            for name in patches
            if self.shapes[name] != shapes[name]
        ]
        if misshapen:
            raise CheckpointError(
                f"{self.path}: a LoRA for a model of other sizes: {len(misshapen)} of its layers do not fit "
                f"({first_few(misshapen, 2)})"
            )
        if missing:
            log.warning("%s: %d layers are not in this model (%s)", self.path, len(missing), first_few(missing))
        blocks, depth = depth_of(patches), depth_of(shapes)
        if depth / 2 < blocks < depth:  # CogVideoX 5B has layers of the same names and sizes, in 42 blocks
            log.warning("%s: only for the first %d of %d blocks; is it for another model?", self.path, blocks, depth)
        return replace(self, patches=patches)


def read_lora(path: str | Path) -> Lora:
    """A LoRA for the AsymmDiT from a safetensors file, as written by the published trainer, diffusers and PEFT, kohya's
    scripts, or for ComfyUI. DoRA and whole differences are read too.

    Raises CheckpointError on anything else, on an incomplete file, and on values that are no numbers.
    """
    file = Checkpoint.open(path)
    adapters = find_adapters(file)
    scales = Scales(file, adapters)
    lora = Lora(file.path, {}, {})
    for adapter in adapters:
        for leaf, patch in patches_of(file.path, adapter, scales.scale(adapter)).items():
            name = f"{adapter.place.layer}.{leaf}"
            own = adapter.shapes[leaf]
            if (shape := lora.shapes.setdefault(name, own)) != own:
                sizes = f"{list(shape)} and {list(own)}"
                raise CheckpointError(f"{file.path}: its parts for {name} are for weights of different sizes, {sizes}")
            lora.patches[name] = (*lora.patches.get(name, ()), patch)
    return lora


def check_lora(path: str | Path) -> None:
    """Raise CheckpointError unless the file is a LoRA for an AsymmDiT, of whatever size. Reads no factors."""
    file = Checkpoint.open(path)
    adapters = find_adapters(file)
    scales = Scales(file, adapters)
    for adapter in adapters:
        scales.scale(adapter)


def settings_beside(file: Checkpoint) -> tuple[Path, ...]:
    """The files beside a LoRA that say how strong it is meant to be. Raises CheckpointError like `check_lora`."""
    return Scales(file, find_adapters(file)).beside
