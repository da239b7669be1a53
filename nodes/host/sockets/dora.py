"""DoRA on a MODEL, as PEFT and as LyCORIS train it. ComfyUI's own LoRAAdapter knows the latter alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ....mochi.lora import DoraPatch


class DoraAdapter(WeightAdapterBase):
    """A DoraPatch among ComfyUI's patches.

    Attributes:
        weights: up, down, scale, magnitude and norm_of_sum of the patch. ComfyUI moves the tensors among them.
    """

    name = "lora"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]):
        self.loaded_keys = loaded_keys
        self.weights: Any = weights  # of the base class: a list of tensors

    @classmethod
    def of(cls, patch: DoraPatch) -> DoraAdapter:
        return cls(set(), (patch.up, patch.down, patch.scale, patch.magnitude, patch.norm_of_sum))

    def patch(self, strength: float, start: int | None = None, base_scale: float = 1.0) -> DoraPatch:
        up, down, scale, magnitude, norm_of_sum = self.weights
        shape = {"magnitude": magnitude, "norm_of_sum": norm_of_sum, "strength": strength}
        return DoraPatch(up, down, scale, start, base_scale, **shape)

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """Patch a weight, or the rows of it that the offset names, in place."""
        w = weight.float()
        self.patch(strength).apply(w, slice(0, len(w)))
        return weight.copy_(w)
