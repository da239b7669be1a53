"""LoRA for the AsymmDiT: files in the formats that trainers write, and what they do to the weights."""

from __future__ import annotations

from .apply import LoraMount, as_patches, layer_shapes
from .file import Factors, Lora, check_lora, read_lora, swap_halves

__all__ = ["Factors", "Lora", "LoraMount", "as_patches", "check_lora", "layer_shapes", "read_lora", "swap_halves"]
