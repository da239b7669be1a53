"""LoRA for the AsymmDiT: files in the formats that trainers write, and the patches that they put on weights."""

from .adapters import UnsupportedAdapter
from .apply import LoraMount, as_patches, patchable_shapes
from .build import swap_halves
from .file import Lora, check_lora, read_lora
from .patch import AdapterPatch, DiffPatch, DoraPatch, LoraPatch, ReplacePatch, WeightPatch, apply_patches
from .scale import files_beside

__all__ = [
    "AdapterPatch",
    "DiffPatch",
    "DoraPatch",
    "Lora",
    "LoraMount",
    "LoraPatch",
    "ReplacePatch",
    "UnsupportedAdapter",
    "WeightPatch",
    "apply_patches",
    "as_patches",
    "check_lora",
    "files_beside",
    "patchable_shapes",
    "read_lora",
    "swap_halves",
]
