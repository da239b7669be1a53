"""Editing a clip: back along the flow to the noise that it could have come from, and from there with another prompt.

Inversion of a rectified flow, with guidance of the original on the way back: Rout et al., "Semantic Image Inversion and
Editing using Rectified Stochastic Differential Equations", 2024, without its noise; as MochiEdit does it for Mochi.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import Cancelled, MochiError
from .euler import Denoised, StepPredict


def invert(
    predict: StepPredict,
    latents: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[Denoised], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tensor:
    """Follow the flow from clean latents (B, C, T, h, w) to the noise at level `sigmas[0]`, in float32.

    sigmas: noise levels of the run to undo, falling to 0. Its steps are undone from the last to the first, each with
    the flow at the level where the step starts. So the network never sees latents without noise.
    """
    z = latents.float()
    steps = len(sigmas) - 1
    for done, i in enumerate(reversed(range(steps)), 1):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled after step {done - 1} of {steps}")
        sigma = float(sigmas[i])
        flow = predict(z, z.new_full((z.shape[0],), sigma), done - 1).float()
        z = z - (sigma - float(sigmas[i + 1])) * flow
        if on_step is not None:
            on_step(Denoised(done, steps, z, z + sigma * flow))
    return z


def drawn_to(
    original: Tensor, predict: StepPredict, strengths: Sequence[float], mask: Tensor | None = None
) -> StepPredict:
    """A flow that is drawn to given clean latents.

    Args:
        original: the clean latents (B, C, T, h, w).
        strengths: how far each step is drawn: 0 not at all, 1 so that nothing but `original` comes out.
        mask: like the latents, 1 where something new is made, 0 where they stay.
    """

    def drawn(z: Tensor, sigma: Tensor, step: int) -> Tensor:
        flow = predict(z, sigma, step)
        if mask is None and not strengths[step]:
            return flow
        straight = (original - z) / sigma.view(-1, 1, 1, 1, 1)
        strength = strengths[step] if mask is None else 1 - mask * (1 - strengths[step])
        return flow + strength * (straight - flow)

    return drawn


def windowed(strength: float, start: float, end: float, steps: int) -> list[float]:
    """A strength for each step: full from the `start` to the `end` part of a run, 0 elsewhere.

    Raises MochiError unless all three are between 0 and 1, and `end` is not before `start`.
    """
    if not 0 <= start <= end <= 1:
        raise MochiError(f"start is {start:g} and end {end:g}, but they must be between 0 and 1, in this order")
    if not 0 <= strength <= 1:
        raise MochiError(f"strength is {strength:g}, but must be between 0 and 1")
    return [strength if start * steps <= i < end * steps else 0.0 for i in range(steps)]
