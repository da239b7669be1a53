"""Classifier-free guidance, with one scale for each step, and skip-layer guidance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import MochiError

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, C, T, h, w), sigma (B,) or (B, T)) -> `z_0 - eps`, like the latents."""


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


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: away from what the network predicts for the prompt when it leaves some blocks out.

    "Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling" (arXiv 2411.18664), which has block 34 and
    scale 1 for Mochi. It is one more forward pass in a step.

    Attributes:
        layers: numbers of the blocks, from 0.
        scale: how far away.
        rescale: how much of the deviation that it adds is taken back: 0 nothing, 1 all of it.
    """

    layers: tuple[int, ...]
    scale: float = 1.0
    rescale: float = 0.0

    def guide(self, flow: Tensor, cond: Tensor, skipped: Tensor) -> Tensor:
        """The flow (B, ...) of a step, with guidance by the prompt in it, guided away from `skipped` too."""
        flow = flow + self.scale * (cond - skipped)
        if not self.rescale:
            return flow
        axes = tuple(range(1, flow.ndim))
        deviations = cond.std(axes, keepdim=True) / flow.std(axes, keepdim=True)
        return flow * (self.rescale * deviations + 1 - self.rescale)

    def check(self, depth: int, name: str = "stg_layers") -> None:
        """Raise MochiError where a network of so many blocks does not have one of the layers."""
        for layer in self.layers:
            if not 0 <= layer < depth:
                raise MochiError(
                    f"{name} has {layer}, but the blocks of this model are 0 to {depth - 1}: the nearest is "
                    f"{min(max(layer, 0), depth - 1)}"
                )


def parse_layers(text: str, name: str = "stg_layers") -> tuple[int, ...]:
    """Numbers of blocks as people write them: `34`, or a list such as `33, 34`."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        raise MochiError(f"{name} is {text!r}, but must be the number of a block, or several with commas between them")
    return tuple(sorted({int(part) for part in parts}))


def guided(
    conditional: Predict,
    unconditional: Predict,
    cfg: Sequence[float],
    skipping: Predict | None = None,
    skip: SkipLayers | None = None,
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """`uncond + cfg[step] * (cond - uncond)`; where cfg is 1 the unconditional pass is skipped.

    skipping, skip: the conditional pass without some blocks, and how it guides.
    """

    def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
        cond = conditional(z, sigma)
        flow = cond if cfg[step] == 1 else guide(cond, unconditional(z, sigma), cfg[step])
        return flow if skip is None or skipping is None else skip.guide(flow, cond, skipping(z, sigma))

    return predict


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Away from the unconditional prediction, past the conditional one where `scale` > 1."""
    return uncond + scale * (cond - uncond)
