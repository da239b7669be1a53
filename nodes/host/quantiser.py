"""Weights in the formats of ComfyUI's own quantiser (nvfp4, mxfp8, int8, ...): its own layers read them and compute.

Only here is it known which ComfyUI has which of them: 0.3.75 has float8 alone, which the core reads itself.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor, nn

from ...mochi.checkpoint.hosted import HostTensor
from ...mochi.errors import CheckpointError
from ...mochi.kernels.graph_break import uncompiled


@lru_cache(maxsize=1)
def formats() -> frozenset[str]:
    """The formats that this ComfyUI has layers for. Its table names more where their library is missing."""
    table: dict[str, dict[str, Any]] = getattr(comfy.quant_ops, "QUANT_ALGOS", {})
    layout = getattr(comfy.quant_ops, "get_layout_class", lambda name: name)
    mine = ("float8_e4m3fn", "float8_e5m2")
    return frozenset(kind for kind, row in table.items() if kind not in mine and layout(row["comfy_tensor_layout"]))


class HostLayer(nn.Module):
    """A layer of the class that `host_linear` makes."""

    def use_native_products(self) -> None:
        """Multiply weights as they are, where the device can."""


def weights_mode(model: nn.Module) -> AbstractContextManager[Any]:
    """The mode to make parameters of a model in: not inference mode, where it has layers of the host.

    Quantised parameters that are made in it cannot be moved outside, nor those made outside be moved in it; and ComfyUI
    moves a model in a prompt and between two.
    """
    hosted = any(isinstance(module, HostLayer) for module in model.modules())
    return torch.inference_mode(False) if hosted else nullcontext()


@lru_cache(maxsize=8)
def host_linear(device: torch.device, dtype: torch.dtype) -> type[nn.Module]:
    """The layer class for weights that dequantise to `dtype`, on a device."""
    described: Any = SimpleNamespace(quant_config={"mixed_ops": True})
    operations: Any = comfy.ops.pick_operations(None, dtype, load_device=device, model_config=described)

    class HostLinear(operations.Linear, HostLayer):
        """ComfyUI's layer. Its weight is dequantised when it runs, unless `native`; then it is multiplied as it is,
        where the device can.
        """

        native = False

        def __init__(self, in_features: int, out_features: int, bias: bool, device: Any, dtype: torch.dtype):
            super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
            empty = torch.empty(out_features, in_features, device=device, dtype=dtype)
            self.weight = nn.Parameter(empty, requires_grad=False)
            self._full_precision_mm = True

        @torch.inference_mode(False)
        def load_hosted(self, entry: HostTensor, device: torch.device | str | None) -> None:
            state = {name: tensor.read() for name, tensor in entry.stored.items()}
            text = json.dumps(dict(entry.conf)).encode()
            state["comfy_quant"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            self.factory_kwargs = {**self.factory_kwargs, "device": torch.device(device or "cpu")}
            try:
                self.load_state_dict(state, strict=False, assign=True)
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise CheckpointError(f"{entry.name} cannot be read as {entry.kind}: {error}") from error

        @torch.inference_mode(False)
        def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
            return super()._apply(*args, **kwargs)

        def dequantized(self, dtype: torch.dtype) -> Tensor:
            weight, columns = self.weight.dequantize().to(dtype), getattr(self, "pre_quant_scale", None)
            return weight if columns is None else weight * columns.to(dtype)

        def forward(self, input: Tensor) -> Tensor:
            return uncompiled(self.product, input) if torch.compiler.is_compiling() else self.product(input)

        def product(self, input: Tensor) -> Tensor:
            """The result of `forward`; never compiled."""
            if not input.numel():  # an empty prompt, which not every kernel takes
                return input.new_empty(*input.shape[:-1], self.out_features)
            return super().forward(input)

        def _forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            # int8 layers would quantise their input even where all is to be in full precision.
            if not self.native and isinstance(weight, comfy.quant_ops.QuantizedTensor):
                weight = weight.dequantize()
            return super()._forward(input, weight, bias)

        def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
            if f"{prefix}weight" in state_dict:
                super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            else:  # the host would take a weight that is not named for one that is missing
                nn.Module._load_from_state_dict(self, state_dict, prefix, *args, **kwargs)

        def use_native_products(self) -> None:
            self.native = self.quant_format not in self._disabled_formats and not self._full_precision_mm_config
            self._full_precision_mm = not self.native

    return HostLinear


def use_native_products(model: nn.Module) -> None:
    """Compute products in the formats of the weights where the device can."""
    for module in model.modules():
        if isinstance(module, HostLayer):
            module.use_native_products()
