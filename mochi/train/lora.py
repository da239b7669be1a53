"""A LoRA that is trained: two small factors on each of some Linear layers, whose own weights stay as they are."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dit import AsymmDiT
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
        out = self.base(x)
        if not self.strength:
            return out
        down = F.linear(F.dropout(x, self.dropout, self.training), self.lora_A.to(x.dtype))
        return out + F.linear(down, self.lora_B.to(x.dtype)) * (self.scale * self.strength)


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
