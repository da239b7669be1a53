"""Layers with quantised weights (fp8, GGUF) that ComfyUI moves between devices and patches like its own."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.lora
import comfy.model_management as mm
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.ops import CastWeightBiasOp, run_every_op
from torch import Tensor, nn

from ....mochi import quant
from ....mochi.errors import MochiError
from ..hosts import core_patcher, with_parameters
from ..quantiser import HostLayer, formats, host_linear, weights_mode

log = logging.getLogger(__name__)


class QuantLinear(quant.QuantLinear, CastWeightBiasOp):
    """The bytes come to where x is and are dequantised there. Then LoRA and its kin are applied."""

    comfy_cast_weights = True  # the weight may be on another device than x
    comfy_patched_weights: bool  # set by the host while it is loaded

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.weight_function, self.bias_function = [], []

    def product(self, x: Tensor | quant.QuantRows) -> Tensor:
        run_every_op()
        return super().product(x)

    def parameters_for(self, x: Tensor | quant.QuantRows) -> tuple[Tensor, Tensor | None]:
        bias = None if self.bias is None else self._here(self.bias, x.dtype, x.device)
        for function in self.bias_function if bias is not None else ():
            bias = function(bias)
        return self._here(self.weight, None, x.device), bias

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weight (out_features, in_features) as it is computed with, in host memory."""
        return self.dequantized(self.weight, dtype).cpu()

    def patches(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """ComfyUI brings a patch of its own where a model is loaded only in part."""
        if self.patch is None or any(isinstance(function, LowVramPatch) for function in self.weight_function):
            return self.weight_function
        return [self.patch, *self.weight_function]

    @staticmethod
    def _here(t: Tensor, dtype: torch.dtype | None, device: torch.device) -> Tensor:
        return mm.cast_to(t, dtype, device, non_blocking=mm.device_supports_non_blocking(device))


def with_quant(operations: type, device: torch.device) -> type:
    """The host's operations, with the layers for quantised weights among them.

    device: where the layers will run.
    """

    def linear(*args: Any, dtype: torch.dtype, **kwargs: Any) -> nn.Module:
        return host_linear(device, dtype)(*args, dtype=dtype, **kwargs)

    added = {"QuantLinear": QuantLinear, "HostLinear": staticmethod(linear), "HOSTED": formats()}
    return type("Operations", (with_parameters(operations),), added)


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """The names and modules of the layers whose weights are quantised."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantLinear))


def patcher_for(
    model: nn.Module, load_device: torch.device, offload_device: torch.device, dynamic: bool = True
) -> ModelPatcher:
    """The host's own patcher; ours where some weights are quantised.

    dynamic: whether it may be the host's dynamic one, see `core_patcher`.
    """
    kind = core_patcher(dynamic)
    if not any(isinstance(module, QuantLinear | HostLayer) for module in model.modules()):
        return kind(model, load_device, offload_device)
    if kind is not ModelPatcher:
        log.info("Quantised weights go without ComfyUI's dynamic VRAM, which cannot patch them as they are unpacked")
    return QuantPatcher(model, load_device, offload_device)


class QuantPatcher(ModelPatcher):
    """Patches quantised weights when they are dequantised: a patch would be lost if they were quantised again."""

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        layer = self._layer(key)
        if layer is None:
            with weights_mode(self.model.get_submodule(key.rpartition(".")[0])):
                return super().patch_weight_to_device(key, *args, **kwargs)
        if key in self.patches:
            patches = self.patches[key]
            layer.patch = lambda weight: comfy.lora.calculate_weight(patches, weight, key, weight.dtype)
        return None

    def unpatch_model(self, device_to: torch.device | None = None, unpatch_weights: bool = True) -> None:
        if unpatch_weights:
            for _, layer in quant_layers(self.model):
                layer.patch = None
        with weights_mode(self.model):
            super().unpatch_model(device_to, unpatch_weights)

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list]:
        """Each weight with its patches, for nodes that merge models. A quantised one comes as a function."""
        found = super().get_key_patches(filter_prefix)
        for key in found:
            layer = self._layer(key)
            if layer is not None:
                found[key][0] = (layer.weight, _dequantizes(layer))
        return found

    def add_hook_patches(self, hook: Any, patches: dict, *args: Any, **kwargs: Any) -> Any:
        keys = (key if isinstance(key, str) else key[0] for key in patches)
        if any(self._layer(key) is not None for key in keys):
            raise MochiError(
                "A hook changes weights (a LoRA) while the sampler runs, but the weights are quantised. Load the LoRA "
                "with Load LoRA (Mochi) instead, or choose dtype bfloat16 in Load AsymmDiT (Mochi)."
            )
        return super().add_hook_patches(hook, patches, *args, **kwargs)

    def model_state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Called by newer hosts, which patch weights as they write them unless a layer says that it has been patched.

        So these say. What saves a model puts the plain weights of quantised layers in the place of their bytes.
        """
        unsaid = [layer for _, layer in quant_layers(self.model) if not hasattr(layer, "comfy_patched_weights")]
        for layer in unsaid:
            layer.comfy_patched_weights = True
        newer: Any = super()
        try:
            return newer.model_state_dict_for_saving(*args, **kwargs)
        finally:
            for layer in unsaid:
                del layer.comfy_patched_weights

    def add_weight_wrapper(self, name: str, function: Any) -> None:
        """Called for a weight that is trained. A node reads its shape off the bytes, which must be one for each value.

        Raises MochiError for other formats.
        """
        layer = self.model.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, QuantLinear) and layer.weight.shape[1] != layer.in_features:
            raise MochiError(
                f"Weights in {layer.quant.title} cannot be trained upon. In Load AsymmDiT (Mochi) choose dtype "
                "float8_e4m3fn or bfloat16, or a file that is not packed."
            )
        super().add_weight_wrapper(name, function)

    def _layer(self, key: str) -> QuantLinear | None:
        path, _, leaf = key.rpartition(".")
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            return None
        return module if leaf == "weight" and isinstance(module, QuantLinear) else None


def _dequantizes(layer: QuantLinear) -> Callable[..., Tensor]:
    """A function that gives the dequantised weight. ComfyUI calls it with the bytes, which it takes for the weight."""
    return lambda weight, **_: layer.quant.dequantize(layer.weight.to(weight.device), torch.float32)
