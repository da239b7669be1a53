"""LoRAs on the weights of an AsymmDiT: on one device, and as patches for the ranks of a group."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import dit_shapes
from ..config import DiTConfig
from ..errors import MochiError
from ..quant import QuantLinear
from .file import Lora, Shapes, read_lora
from .patch import WeightPatch, apply_patches, patch_quant_linear

Loras = Sequence[tuple[Lora, float]]
"""LoRAs, each with its strength: 1 as trained, 0 not at all."""


def patchable_shapes(network: nn.Module) -> Shapes:
    """Rows and columns of each weight that a LoRA can be for, quantised or not, and rows of each bias."""
    shapes: dict[str, Any] = {name: tuple(p.shape) for name, p in network.named_parameters()}
    for name, module in network.named_modules():
        if hasattr(module, "out_features"):
            shapes[f"{name}.weight"] = (module.out_features, module.in_features)
    return _as_matrices(shapes)


def patchable_shapes_for(config: DiTConfig) -> Shapes:
    """The same, of a model of these sizes."""
    return _as_matrices(dit_shapes(config))


def read_loras(named: Iterable[tuple[str, float]], config: DiTConfig) -> Loras:
    """Read LoRAs from files, each with its strength. Raises CheckpointError on one that does not fit these sizes."""
    shapes = patchable_shapes_for(config)
    return [(read_lora(path).fitted(shapes), strength) for path, strength in named]


def _as_matrices(shapes: Shapes) -> Shapes:
    return {
        name: (shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape
        for name, shape in shapes.items()
        if name.endswith((".weight", ".bias"))
    }


def as_patches(loras: Loras, shapes: Shapes) -> dict[str, list[WeightPatch]]:
    """The patches for each parameter, by its name. A LoRA of strength 0 has none.

    Raises CheckpointError on a LoRA that does not fit the model, MochiError on a strength that is no number.
    """
    patches: dict[str, list[WeightPatch]] = {}
    for lora, strength in loras:
        if not math.isfinite(strength):
            raise MochiError(f"{lora.path}: its strength is {strength}, but must be a number")
        for name, several in lora.fitted(shapes).patches.items() if strength else ():
            patches.setdefault(name, []).extend(patch.scaled(strength) for patch in several)
    return patches


class LoraMount:
    """The LoRAs on a model on one device. They can change at any time.

    Plain weights are patched in float32 and rounded once; the originals are kept in the host's memory. Quantised
    weights stay as they are, and are patched whenever they are dequantised.
    """

    def __init__(self, model: nn.Module, device: torch.device | None = None):
        """device: where the model computes, if its weights are elsewhere in the meantime."""
        self._model, self._device = model, device
        self._shapes = patchable_shapes(model)
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
        self._quantised = {name for name in patches if self._is_quantised(name)}
        for name, several in patches.items():
            if self._is_quantised(name):
                layer = self._layer(name)
                patch_quant_linear(layer, name, several, self._device or layer.weight.device)
            else:
                p = self._model.get_parameter(name)
                original = self._originals.setdefault(name, p.detach().cpu())
                self._assign(name, apply_patches(name, original.to(p.device), several, original.shape))

    def _is_quantised(self, name: str) -> bool:
        return name.endswith(".weight") and isinstance(self._layer(name), QuantLinear)

    def _assign(self, name: str, values: Tensor) -> None:
        p = nn.Parameter(values.to(self._model.get_parameter(name).device), requires_grad=False)
        setattr(self._layer(name), name.rpartition(".")[2], p)

    def _layer(self, name: str) -> Any:
        """The layer with this parameter: a QuantLinear, or a layer of torch or of a host."""
        return self._model.get_submodule(name.rpartition(".")[0])
