"""The Euler loop of the flow from noise to data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import Cancelled, MochiError

StepPredict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents (B, C, T, h, w) float32, sigma (B,) or (B, T) float32, step) -> `z_0 - eps`, like the latents."""


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


@dataclass(frozen=True)
class Given:
    """Latents that some frames of a video are given, and how much noise these get.

    Attributes:
        latents: (1 or B, C, T, h, w) in the network's units; what free frames have there is what they start from. None
            where the noise that a run gets has them in it already.
        multipliers: of the noise level, one for each of the T frames: 1 for a free frame, 0 for one that stays.
        masked: whether the network knows one level only. Frames are then at this one too, and those whose multiplier
            is below 1 go straight to the given latents, as inpainting keeps them.
    """

    latents: Tensor | None
    multipliers: tuple[float, ...]
    masked: bool = False

    def noised(self, noise: Tensor, sigma: float) -> Tensor:
        """The start of a run: each frame of these latents at its own level, `sigma * m_t`."""
        if self.latents is None:
            return noise
        latents = self.latents.to(noise)
        levels = self.levels(noise.new_full((1,), sigma)).view(-1, 1, 1)
        return (1 - levels) * latents + levels * noise

    def levels(self, sigma: Tensor) -> Tensor:
        """What the network is told where the level of a step is sigma (B,): a level for each frame, (B, T)."""
        return sigma if self.masked else sigma[:, None] * self._each(sigma)

    def step(self, flow: Tensor, z: Tensor, sigma: float) -> Tensor:
        """The flow of a step from z at level sigma, for a flow that the network predicts, each (B, C, T, h, w)."""
        each = self._each(z)[:, None, None]
        if not self.masked:
            return each * flow
        if self.latents is None:
            raise MochiError("A run that keeps frames by a mask needs their latents")
        return torch.where(each < 1, (self.latents.to(z) - z) / sigma, flow)

    def _each(self, like: Tensor) -> Tensor:
        return torch.tensor(self.multipliers, device=like.device)


def sample(
    predict: StepPredict,
    noise: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[Denoised], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    given: Given | None = None,
) -> Tensor:
    """Follow `z <- z + (sigma_i - sigma_{i+1}) * predict(z, sigma_i, i)` from `noise` to the last sigma.

    noise (B, C, T, h, w) is at level `sigmas[0]`, or where frames are given, of level 1. Each frame t then has levels
    `sigma_i * m_t` of its own, unless frames are kept by a mask, and steps from one to the next. The loop computes in
    float32. Raises Cancelled, before the next step, once `cancelled` says so.
    """
    z = noise.float() if given is None else given.noised(noise.float(), float(sigmas[0]))
    steps = len(sigmas) - 1
    for i in range(steps):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled after step {i} of {steps}")
        sigma = float(sigmas[i])
        at = z.new_full((z.shape[0],), sigma)
        flow = predict(z, at if given is None else given.levels(at), i).float()
        if given is not None:
            flow = given.step(flow, z, sigma)
        estimate = z + sigma * flow
        z = z + (sigma - float(sigmas[i + 1])) * flow
        if on_step is not None:
            on_step(Denoised(i + 1, steps, z, estimate))
    return z
