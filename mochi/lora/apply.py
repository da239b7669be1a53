"""LoRAs on the weights of an AsymmDiT: on one device, and as patches for the ranks of a group."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import dit_shapes
from ..config import DiTConfig
from ..errors import MochiError
from ..quant import QuantLinear
from .file import Lora, Shapes
from .patch import WeightPatch, apply_patches, patch_quant_linear

Loras = Sequence[tuple[Lora, float]]
"""LoRAs, each with its strength: 1 as trained, 0 not at all."""


def layer_shapes(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Rows and columns of each weight that a LoRA can be for: of Linear layers, quantised or not, and convolutions."""
    shapes = {}
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):
            shapes[name] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv2d):
            shapes[name] = (module.out_channels, module.in_channels * math.prod(module.kernel_size))
    return shapes


def layer_shapes_for(config: DiTConfig) -> Shapes:
    """Rows and columns of each weight that a LoRA can be for, in a model of these sizes."""
    shapes = {name: shape for name, shape in dit_shapes(config).items() if name.endswith(".weight") and len(shape) > 1}
    return {name.removesuffix(".weight"): (shape[0], math.prod(shape[1:])) for name, shape in shapes.items()}


def as_patches(loras: Loras, shapes: Shapes) -> dict[str, list[WeightPatch]]:
    """The patches for each parameter, by its name. A LoRA of strength 0 has none.

    Raises CheckpointError on a LoRA that does not fit the model, MochiError on a strength that is no number.
    """
    patches: dict[str, list[WeightPatch]] = {}
    for lora, strength in loras:
        if not math.isfinite(strength):
            raise MochiError(f"{lora.path}: its strength is {strength}, but must be a number")
        for layer, several in lora.fitted(shapes).layers.items() if strength else ():
            scaled = (replace(patch, scale=strength * patch.scale) for patch in several)
            patches.setdefault(f"{layer}.weight", []).extend(scaled)
    return patches


class LoraMount:
    """The LoRAs on a model on one device. They can change at any time.

    Plain weights are patched in float32 and rounded once; the originals are kept in the host's memory. Quantised
    weights stay as they are, and are patched whenever they are dequantised.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._shapes = layer_shapes(model)
        self._originals: dict[str, Tensor] = {}
        self._quantised: set[str] = set()

    @torch.no_grad()
    def use(self, loras: Loras) -> None:
        """Have these LoRAs and no others. Without any the model is as it was, bit for bit. Raises like `as_patches`."""
        patches = as_patches(loras, self._shapes)
        for name in self._originals.keys() - patches.keys():
            self._assign(name, self._originals.pop(name))
        for name in self._quantised - patches.keys():
            self._layer(name).patch = None
        self._quantised = {name for name in patches if isinstance(self._layer(name), QuantLinear)}
        for name, several in patches.items():
            layer = self._layer(name)
            if isinstance(layer, QuantLinear):
                patch_quant_linear(layer, name, several, layer.weight.device)
            else:
                original = self._originals.setdefault(name, layer.weight.detach().cpu())
                self._assign(name, apply_patches(name, original.to(layer.weight.device), several, original.shape))

    def _assign(self, name: str, weight: Tensor) -> None:
        layer = self._layer(name)
        layer.weight = nn.Parameter(weight.to(layer.weight.device), requires_grad=False)

    def _layer(self, name: str) -> Any:
        """The layer with this weight: a QuantLinear, a Linear or a convolution, of torch or of a host."""
        return self._model.get_submodule(name.removesuffix(".weight"))
