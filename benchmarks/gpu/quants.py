"""Denoisers of 4 blocks at full width with quantised weights, beside one with plain weights."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from mochi.dit import AsymmDiT
from mochi.quant import QUANT_DTYPE, Float8, Ggml, QuantFormat, quant_linears
from tests.random_weights import randomised

from .measuring import all_kernels_ran, milliseconds, peak, profiled
from .setting import Forward, Part, Setting

QUANTS: dict[str, QuantFormat | None] = {
    "bfloat16": None,
    "float8": Float8(torch.float8_e4m3fn, 1e-3),
    "float8 fast": Float8(torch.float8_e4m3fn, 1e-3, fast=True),
    "Q8_0": Ggml("Q8_0"),
    "Q4_K": Ggml("Q4_K"),
}


def section(s: Setting) -> Iterator[Part]:
    figures: dict[str, dict[str, Any]] = {}
    for name, quant in QUANTS.items():
        yield name, partial(measure, s, name, quant, figures)


def measure(s: Setting, name: str, quant: QuantFormat | None, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """figures: of the denoisers before; the first one has plain weights."""
    model = AsymmDiT(s.few_blocks(), dtype=s.dtype, device="meta")
    if quant is not None:
        quant_linears(model, dict.fromkeys(quantisable(model), quant))
    run = Forward(s, with_weights(model.to_empty(device=s.device)))
    found = {"blocks": len(model.blocks), **milliseconds(run, s.device), **peak(run, s.device)}
    found["profile"] = profiled(run, s.device)
    figures[name] = found
    if "bfloat16" in figures:
        found["as fast as bfloat16 x"] = figures["bfloat16"]["ms"] / found["ms"]
    return found | all_kernels_ran()


def quantisable(model: AsymmDiT) -> list[str]:
    """The weights that files have quantised."""
    return [name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2]


def with_weights(model: nn.Module) -> nn.Module:
    """Random weights. Quantised bytes stay below 40, of which every format makes small, finite numbers."""
    randomised(model, bias=0.1)
    for p in model.parameters():
        if p.dtype == QUANT_DTYPE:
            p.random_(0, 40)
    return model
