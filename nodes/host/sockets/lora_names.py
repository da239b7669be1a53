"""The names that LoRA files have for Mochi's layers, for ComfyUI's own LoRA loaders.

ComfyUI by itself knows the names of the published model. It has no hook for more, and no class of ours is asked: its
LoRA loaders call one function for the names of any model. So that function is replaced by one that adds to its names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_base
from torch import nn

from ....mochi.lora import patchable_shapes, swap_halves
from ....mochi.lora.names import depth_of, places

PREFIX = "diffusion_model."
"""The prefix of the names of a MODEL's weights."""

Target = str | tuple[str, tuple[int, int, int]] | tuple[str, None, Callable]
"""A weight by its name in the MODEL; (name, (dimension, start, size)), some rows of it; or (name, None, function), with
a function for what is added to it."""


def teach_comfyui_lora_names() -> None:
    """Replace ComfyUI's function for the names of a model's layers by `LoraNames`."""
    known = comfy.lora.model_lora_keys_unet
    comfy.lora.model_lora_keys_unet = LoraNames(getattr(known, "before_mochi", known))


@dataclass(frozen=True)
class LoraNames:
    """ComfyUI's `model_lora_keys_unet` that knows all names of Mochi's layers. For other models it is as before.

    Attributes:
        before_mochi: ComfyUI's own, also where the pack was loaded again.
    """

    before_mochi: Callable[..., dict[str, Any]]

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        names = self.before_mochi(model, *args, **kwargs)
        if isinstance(model, comfy.model_base.GenmoMochi):
            for name, target in targets(model.diffusion_model).items():
                names.setdefault(name, target)
        return names


def targets(network: nn.Module) -> dict[str, Target]:
    """The weight of a MODEL with this network that each name in a LoRA file stands for."""
    shapes, found = patchable_shapes(network), {}
    for name, (layer, part, parts, swapped) in places(depth_of(shapes)).items():
        if (weight := f"{layer}.weight") in shapes:
            key, rows = f"{PREFIX}{weight}", shapes[weight][0] // parts
            whole = (key, None, swap_halves) if swapped else key
            found[name] = whole if parts == 1 else (key, (0, part * rows, rows))
    return found
