"""The names that LoRA files have for Mochi's layers, told to ComfyUI, so that its own LoRA loaders know them too.

By itself ComfyUI knows the names of the published model. It has no hook for more: its function that lists the names of
a model is replaced by one that adds to the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import comfy.lora
import comfy.model_base
from torch import nn

from ....mochi.lora import layer_shapes, swap_halves
from ....mochi.lora.names import depth_of, places
from ..ranks.patches import PREFIX

Target = str | tuple[str, tuple[int, int, int]] | tuple[str, None, Callable]
"""A weight by its name in the MODEL; or (name, (dimension, start, size)), some rows of it; or (name, None, function),
with a function for what is added to it."""


def teach_names() -> None:
    """Have ComfyUI's LoRA loaders know every name for a layer of Mochi. Other models are as before."""
    known = comfy.lora.model_lora_keys_unet
    known = getattr(known, "before_mochi", known)  # the pack was loaded again

    @wraps(known)
    def model_lora_keys_unet(model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = known(model, *args, **kwargs)
        if isinstance(model, comfy.model_base.GenmoMochi):
            for name, target in targets(model.diffusion_model).items():
                names.setdefault(name, target)
        return names

    model_lora_keys_unet.before_mochi = known
    comfy.lora.model_lora_keys_unet = model_lora_keys_unet


def targets(network: nn.Module) -> dict[str, Target]:
    """What each name in a LoRA file stands for in a MODEL with this network."""
    shapes = layer_shapes(network)
    return {
        name: weight_target(place.layer, shapes, place.part, place.parts, place.swapped)
        for name, place in places(depth_of(shapes)).items()
        if place.layer in shapes
    }


def weight_target(
    layer: str, shapes: Mapping[str, tuple[int, int]], part: int = 0, parts: int = 1, swapped: bool = False
) -> Target:
    """One of several equal parts of a layer's weight, or a weight whose halves the file has swapped."""
    key = f"{PREFIX}{layer}.weight"
    if swapped:
        return key, None, swap_halves
    size = shapes[layer][0] // parts
    return key if parts == 1 else (key, (0, part * size, size))
