"""The Euler loop of the flow from noise to data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..errors import Cancelled

StepPredict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents (B, C, T, h, w) float32, sigma (B,) float32, step) -> `z_0 - eps`, like the latents."""


class Denoised(NamedTuple):
    """What a run reports after each step."""

    step: int  # steps done, 1 .. steps
    steps: int
    latents: Tensor  # (B, C, T, h, w), at the next noise level
    estimate: Tensor  # what the model now takes the clean latents to be, for previews


class Watch(NamedTuple):
    """Who follows a run.

    Attributes:
        on_step: hears of each step.
        cancelled: says whether the run is not wanted any more.
    """

    on_step: Callable[[Denoised], None] | None = None
    cancelled: Callable[[], bool] | None = None


def sample(
    predict: StepPredict,
    noise: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[Denoised], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tensor:
    """Follow `z <- z + (sigma_i - sigma_{i+1}) * predict(z, sigma_i, i)` from `noise` to the last sigma.

    noise (B, C, T, h, w) is at level `sigmas[0]`; the loop computes in float32. Raises Cancelled, before
    the next step, once `cancelled` says so.
    """
    z = noise.float()
    steps = len(sigmas) - 1
    for i in range(steps):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled after step {i} of {steps}")
        sigma = float(sigmas[i])
        flow = predict(z, z.new_full((z.shape[0],), sigma), i).float()
        estimate = z + sigma * flow
        z = z + (sigma - float(sigmas[i + 1])) * flow
        if on_step is not None:
            on_step(Denoised(i + 1, steps, z, estimate))
    return z
