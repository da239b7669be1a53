"""The dtype widgets of the loaders, and what the host knows of devices."""

from collections.abc import Mapping
from typing import Any

import comfy.model_management as mm
import torch

from ..checks import check_choice

DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
FLOAT8 = "float8_e4m3fn"
FAST = "float8_e4m3fn_fast"  # as ComfyUI calls it
QUANT_DTYPES = {**DTYPES, FLOAT8: torch.float8_e4m3fn}
DIT_DTYPES = {**QUANT_DTYPES, FAST: torch.float8_e4m3fn}


def chosen_dtype(name: str, choices: Mapping[str, torch.dtype | None]) -> torch.dtype | None:
    """The dtype that a widget names; None for "auto"."""
    check_choice("dtype", name, choices)
    return choices[name]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, as the host counts."""
    free: Any = mm.get_free_memory(device)
    return free


def total_memory(device: torch.device) -> int:
    """Bytes that a device has."""
    total: Any = mm.get_total_memory(device)
    return total


def runs_on_cpu() -> bool:
    """Whether the host was told to leave GPUs alone, or has none."""
    return mm.cpu_mode()
