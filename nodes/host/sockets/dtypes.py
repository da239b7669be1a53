"""The dtype widgets of the loaders, and the kind of device."""

from __future__ import annotations

from collections.abc import Callable

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


def weight_dtype(
    name: str, default: Callable[[], torch.dtype], choices: dict[str, torch.dtype | None] = DTYPES
) -> torch.dtype:
    """The dtype that a widget names; `default` decides for "auto"."""
    check_choice("dtype", name, choices)
    return choices[name] or default()


def runs_on_cpu() -> bool:
    """Whether the host was told to leave GPUs alone, or has none."""
    return mm.cpu_mode()
