"""A LoRA that is trained: two small factors on each of some Linear layers, whose own weights stay as they are."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..dit import AsymmDiT
from ..quant import QuantLinear
from .settings import Rank

ATTENTION = ("attn.qkv_x", "attn.qkv_y", "attn.proj_x", "attn.proj_y")
MLP = ("mlp_x.w1", "mlp_x.w2", "mlp_y.w1", "mlp_y.w2")
"""The layers of a block that can have a LoRA. The last block has no proj_y and no mlp_y."""


class LoraLinear(nn.Module):
    """`base(x) + scale * up @ down @ dropout(x)`. Source: arXiv 2106.09685.

    Attributes:
        base: a Linear layer of any kind, quantised or not, frozen.
        lora_A: "down" (rank, in_features), float32, kaiming-uniform.
        lora_B: "up" (out_features, rank), float32, zero: at first nothing is changed.
        strength: 1 where it counts; with 0 the layer is as it was, to the bit.
    """

    def __init__(self, base: nn.Module, size: Rank, dropout: float, generator: torch.Generator):
        super().__init__()
        self.base, self.scale, self.dropout, self.strength = base, size.scale, dropout, 1.0
        inside, outside = int(base.in_features), int(base.out_features)  # pyright: ignore[reportArgumentType]
        down = torch.empty(size.rank, inside)
        bound = 1 / math.sqrt(inside)
        nn.init.uniform_(down, -bound, bound, generator=generator)
        device = next(base.parameters()).device
        self.lora_A = nn.Parameter(down.to(device))
        self.lora_B = nn.Parameter(torch.zeros(outside, size.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        if not self.strength:
            return self.base(x)
        dropout = self.dropout if self.training else 0.0
        return _Product.apply(x, self.lora_A, self.lora_B, self.base, self.scale * self.strength, dropout)


class _Product(torch.autograd.Function):
    """The product of a LoraLinear and its gradients: each is added where the one of the frozen weight is already.

    The factors take part in the dtype of the products, as under autocast, and their gradients come in it: float32 is
    exact, half precision rounds them once, before they add up in float32. x is kept, and with dropout what was left of
    it; the frozen weight is asked for again, since a quantised one is not kept, nor one whose rows are on other ranks.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lora_A: Tensor, lora_B: Tensor, base: nn.Module, scale: float, dropout: float
    ) -> Tensor:
        out = base(x)
        rows, kept = x.to(out.dtype).flatten(0, -2), None
        if dropout:
            rows, kept = torch.native_dropout(rows, dropout, True)
        down = rows @ lora_A.to(rows.dtype).T
        out.flatten(0, -2).addmm_(down, lora_B.to(rows.dtype).T, alpha=scale)
        ctx.save_for_backward(rows, kept, down, lora_A, lora_B)
        ctx.base, ctx.scale, ctx.rescale, ctx.like = base, scale, 1 / (1 - dropout), (x.dtype, x.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] # of any signature
        rows, kept, down, lora_A, lora_B = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        up = grad @ lora_B.to(grad.dtype)
        of_x = of_A = of_B = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ _weight(ctx.base, grad)
            if kept is None:
                of_x.addmm_(up, lora_A.to(grad.dtype), alpha=ctx.scale)
            else:
                through = up @ lora_A.to(grad.dtype)
                of_x += torch.ops.aten.native_dropout_backward(through, kept, ctx.scale * ctx.rescale)
            dtype, shape = ctx.like
            of_x = of_x.to(dtype).view(shape)
        if ctx.needs_input_grad[1]:
            of_A = (up.T @ rows).to(lora_A.dtype).mul_(ctx.scale)
        if ctx.needs_input_grad[2]:
            of_B = (grad.T @ down).to(lora_B.dtype).mul_(ctx.scale)
        return of_x, of_A, of_B, None, None, None


def _weight(base: nn.Module, like: Tensor) -> Tensor:
    """The weight (out_features, in_features) that a frozen layer has computed with."""
    if isinstance(base, QuantLinear):
        return base.weight_for(like)
    assert isinstance(base.weight, Tensor)
    return base.weight


def add_lora(model: AsymmDiT, attention: Rank, mlp: Rank, dropout: float = 0.0, seed: int = 0) -> dict[str, LoraLinear]:
    """Put a LoRA on layers of a model that has its weights, and freeze all else.

    Returns the layers with a LoRA by their published names, such as `blocks.0.attn.qkv_x`, in the model's order. They
    start alike on all devices and ranks.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, LoraLinear] = {}
    for number, block in enumerate(model.blocks):
        for size, kinds in ((attention, ATTENTION), (mlp, MLP)):
            for kind in kinds if size.rank else ():
                parent_name, _, leaf = kind.rpartition(".")
                parent = getattr(block, parent_name)
                base = None if parent is None else getattr(parent, leaf)
                if base is not None:
                    layer = LoraLinear(base, size, dropout, generator)
                    setattr(parent, leaf, layer)
                    found[f"blocks.{number}.{kind}"] = layer
    return found
