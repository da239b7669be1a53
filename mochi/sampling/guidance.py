"""Classifier-free guidance, with one scale for each step."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import MochiError

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, C, T, h, w), sigma (B,)) -> `z_0 - eps`, like the latents."""


def per_step_cfg(cfg: float | Sequence[float], steps: int) -> list[float]:
    """One guidance scale for each step, from one number or a list of exactly that length."""
    if isinstance(cfg, (int, float)):
        return [float(cfg)] * steps
    if len(cfg) != steps:
        raise MochiError(
            f"cfg lists {len(cfg)} values, but the run has {steps} steps: give one number or {steps} of them"
        )
    return [float(value) for value in cfg]


def parse_cfg(text: str) -> float | list[float]:
    """Guidance as people write it: `6` or a list such as `6, 6, 4.5, 1`."""
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise MochiError(
            f"cfg is {text!r}, but must be a number, or numbers with commas between them, one for each step"
        )
    return values[0] if len(values) == 1 else values


def guided(
    conditional: Predict, unconditional: Predict, cfg: Sequence[float]
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """`uncond + cfg[step] * (cond - uncond)`; where cfg is 1 the unconditional pass is skipped."""

    def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
        cond = conditional(z, sigma)
        if cfg[step] == 1:
            return cond
        return guide(cond, unconditional(z, sigma), cfg[step])

    return predict


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Away from the unconditional prediction, past the conditional one where `scale` > 1."""
    return uncond + scale * (cond - uncond)
