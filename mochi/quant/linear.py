"""A Linear layer whose weight stays quantised."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .float8 import Float8
from .format import QUANT_DTYPE, QuantFormat
from .rows import QuantRows


class QuantLinear(nn.Module):
    """`x @ weight.T + bias` with a weight that is dequantised, to the dtype of x, each time.

    State dict: `weight` (out_features, bytes of a row) in QUANT_DTYPE, and `bias` where the layer has one.

    Attributes:
        compute: the dtype to compute in and to return. None: that of x.
        patch: makes of the dequantised weight (out_features, in_features) the one to compute with, such as with a
            LoRA, which would be lost if the weight were quantised again.
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool, quant: QuantFormat, **factory: Any):
        super().__init__()
        self.in_features, self.out_features, self.quant = in_features, out_features, quant
        qweight = torch.empty(out_features, quant.row_bytes(in_features), **{**factory, "dtype": QUANT_DTYPE})
        self.weight = nn.Parameter(qweight, requires_grad=False)
        values = nn.Parameter(torch.empty(out_features, **factory), requires_grad=False)
        self.register_parameter("bias", values if bias else None)
        self.compute: torch.dtype | None = None
        self.patch: Callable[[Tensor], Tensor] | None = None

    def takes_rows(self, like: Tensor) -> bool:
        """Whether `forward` takes QuantRows in place of a tensor with the dtype and device of `like`."""
        if self.patches() or _is_learnt(like) or (self.compute or like.dtype) != torch.bfloat16:
            return False
        return self.quant.takes_rows(self.weight, like.device)

    def forward(self, x: Tensor | QuantRows) -> Tensor:
        # Not in compiled code: each layer has its own quant and patch, and would be compiled for itself.
        if torch.compiler.is_compiling():
            from ..kernels.graph_break import uncompiled

            return uncompiled(self.product, x)
        return self.product(x)

    def product(self, x: Tensor | QuantRows) -> Tensor:
        """The result of `forward`; never compiled."""
        if isinstance(x, Tensor):
            x = x.to(self.compute or x.dtype)
        qweight, bias = self.parameters_for(x)
        out = None if self.patches() or _is_learnt(x) else self.quant.matmul(x, qweight, bias)
        if out is not None:
            return out
        assert isinstance(x, Tensor), "rows come only where takes_rows says so"
        weight = self.dequantized(qweight, x.dtype)
        if _is_learnt(x) and not weight.requires_grad and (bias is None or not bias.requires_grad):
            return _Product.apply(x, weight, bias, self)
        return F.linear(x, weight, bias)

    def weight_for(self, x: Tensor) -> Tensor:
        """The patched weight (out_features, in_features) in the dtype of x, on its device."""
        return self.dequantized(self.parameters_for(x)[0], x.dtype)

    def parameters_for(self, x: Tensor | QuantRows) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are computed with. A host may keep them on another device than x."""
        return self.weight, self.bias

    def patches(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Functions that are applied to the dequantised weight, one after the other."""
        return () if self.patch is None else (self.patch,)

    def dequantized(self, qweight: Tensor, dtype: torch.dtype) -> Tensor:
        """The patched weight (out_features, in_features)."""
        weight = self.quant.dequantize(qweight, dtype)
        for patch in self.patches():
            weight = patch(weight)
        return weight

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.quant.title}"


class _Product(torch.autograd.Function):
    """`F.linear` whose weight is not kept for the gradients of x: the layer dequantises it once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: QuantLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] # of any signature
        return grad @ ctx.layer.weight_for(grad), None, None, None


def _is_learnt(x: Tensor | QuantRows) -> bool:
    """Whether gradients are wanted of x. Products of quantised numbers have none."""
    return isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()


def use_float8_products(model: nn.Module) -> None:
    """Compute products in float8 where a layer's weight is float8 and the device can; see Float8."""
    for module in model.modules():
        if isinstance(module, QuantLinear) and isinstance(module.quant, Float8):
            module.quant = replace(module.quant, fast=True)


def quant_linears(model: nn.Module, quants: dict[str, QuantFormat], kind: Any = QuantLinear) -> None:
    """Replace the Linear layers whose weights are quantised.

    Args:
        quants: the formats of their weights, by the parameter's name.
        kind: the class of the new layers, QuantLinear or a host's own that is made in the same way.
    """
    for name, quant in quants.items():
        path = name.removesuffix(".weight")
        old = model.get_submodule(path)
        factory = {"device": old.weight.device, "dtype": old.weight.dtype}
        new = kind(old.in_features, old.out_features, old.bias is not None, quant, **factory)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new.train(old.training))
