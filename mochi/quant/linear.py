"""A Linear layer over packed weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .float8 import Float8
from .format import QUANT_DTYPE, QuantFormat
from .rows import QuantRows


class QuantLinear(nn.Module):
    """`x @ weight.T + bias` with a weight that stays packed and is unpacked, to the dtype of x, each time.

    State dict: `weight` (out_features, bytes of a row) in QUANT_DTYPE, and `bias` where the layer has one.

    Attributes:
        compute: what to compute in and to return, whatever x is; None: the dtype of x.
        patch: takes the unpacked weight (out_features, in_features) to the one to compute with, such as with a LoRA,
            which quant again would lose.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        quant: QuantFormat,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features, self.quant = in_features, out_features, quant
        packed = torch.empty(out_features, quant.row_bytes(in_features), dtype=QUANT_DTYPE, device=device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        values = nn.Parameter(torch.empty(out_features, dtype=dtype, device=device), requires_grad=False)
        self.register_parameter("bias", values if bias else None)
        self.compute: torch.dtype | None = None
        self.patch: Callable[[Tensor], Tensor] | None = None

    def takes_rows(self, like: Tensor) -> bool:
        """Whether `forward` takes rows that are quantized already in place of a tensor of that dtype and device."""
        if self.patch is not None or (self.compute or like.dtype) != torch.bfloat16:
            return False
        return self.quant.takes_rows(self.weight, like.device)

    def forward(self, x: Tensor | QuantRows) -> Tensor:
        # Not in compiled code: each layer has its own quant and patch, and would be compiled for itself.
        if torch.compiler.is_compiling():
            from ..kernels.graph_break import uncompiled

            return uncompiled(self._product, x)
        return self._product(x)

    def _product(self, x: Tensor | QuantRows) -> Tensor:
        if isinstance(x, Tensor):
            x = x.to(self.compute or x.dtype)
        if self.patch is None:
            out = self.quant.matmul(x, self.weight, self.bias)
            if out is not None:
                return out
        weight = self.quant.dequantize(self.weight, x.dtype)
        return F.linear(x, weight if self.patch is None else self.patch(weight), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.quant.title}"


def use_float8_products(model: nn.Module) -> None:
    """Compute products in float8 where a layer's weight is float8 and the device can; see Float8."""
    for module in model.modules():
        if isinstance(module, QuantLinear) and isinstance(module.quant, Float8):
            module.quant = replace(module.quant, fast=True)


def quant_linears(model: nn.Module, quants: dict[str, QuantFormat], kind: Any = QuantLinear) -> None:
    """Put a layer over packed weights in place of each Linear whose `weight` is among `quants`, by parameter name.

    kind: the class of these layers, QuantLinear or a host's own that is made in the same way.
    """
    for name, quant in quants.items():
        path = name.removesuffix(".weight")
        old = model.get_submodule(path)
        factory = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = kind(old.in_features, old.out_features, old.bias is not None, quant, **factory)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new.train(old.training))
