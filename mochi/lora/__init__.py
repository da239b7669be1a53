"""LoRA for the AsymmDiT: files in the formats that trainers write, and the patches that they put on weights."""

from .apply import LoraMount, as_patches, layer_shapes
from .file import Lora, check_lora, read_lora, swap_halves
from .patch import LoraPatch, ReplacePatch, WeightPatch, apply_patches

__all__ = [
    "Lora",
    "LoraMount",
    "LoraPatch",
    "ReplacePatch",
    "WeightPatch",
    "apply_patches",
    "as_patches",
    "check_lora",
    "layer_shapes",
    "read_lora",
    "swap_halves",
]
