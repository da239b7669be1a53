"""Lets ComfyUI keep a part of a model's weights off the device when memory is short."""

from __future__ import annotations

from typing import Any

from comfy.ops import CastWeightBiasOp
from comfy.ops import disable_weight_init as operations
from torch import nn


def make_castable(model: nn.Module) -> None:
    """Turn the layers of a finished model into ComfyUI's own, which can bring their weights along when they run.

    For models of a library, which cannot be built from ComfyUI's operations. Small layers of other kinds move
    to where their input is.
    """
    for module in model.modules():
        if isinstance(module, CastWeightBiasOp):
            continue
        if type(module) is nn.Linear:
            module.__class__ = operations.Linear
        elif type(module) is nn.Embedding:
            module.__class__ = operations.Embedding
            module.bias = None
        elif any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(_follow_input)


def _follow_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    module.to(inputs[0].device)
