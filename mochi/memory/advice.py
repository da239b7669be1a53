"""Before a run: does it fit, and what to choose instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..config import DiTConfig
from ..geometry import SPACE, TIME
from ..parallel.split import usable_ranks
from .denoise import denoising
from .need import Need, readable
from .weights import file_sizes

MORE_RANKS = (2, 4, 8)
WORTH_A_TRY = 5
"""Latent frames of the shortest video that is offered: 25 frames, about a second."""


@dataclass(frozen=True)
class Plan:
    """A guided run; fields as the arguments of `denoising`."""

    config: DiTConfig
    weights: int
    latents: tuple[int, ...]
    ranks: int
    sharding: str
    compute: torch.dtype

    @property
    def need(self) -> Need:
        return denoising(self.config, self.weights, self.latents, self.ranks, self.sharding, self.compute)

    @property
    def latent_frames(self) -> int:
        return self.latents[2]

    def shorter(self, latent_frames: int) -> Plan:
        return replace(self, latents=(*self.latents[:2], latent_frames, *self.latents[3:]))


def longest(need: Callable[[int], Need], most: int, free: int) -> int:
    """The most latent frames T, up to `most`, with which need(T) takes no more than `free` bytes; 0 if none do."""
    return next((frames for frames in range(most, 0, -1) if need(frames).total <= free), 0)


def video_frames(latent_frames: int) -> int:
    return (latent_frames - 1) * TIME + 1


def warning_for(
    config: DiTConfig,
    weights: int,
    latents: Sequence[int],
    ranks: int,
    sharding: str,
    free: int,
    compute: torch.dtype = torch.bfloat16,
) -> str | None:
    """None where denoising fits; else one sentence on what it needs, what there is, and what to choose instead.

    weights: bytes of all weights as they are kept. latents: shape (B, 12, T, h, w). ranks: devices that share the
    work. sharding: "replicated", "sharded" or "offloaded" (from a single device: streamed by the host). free: bytes
    that a device has for weights and activations together; those of our weights that it already holds are among them.
    """
    plan = Plan(config, weights, tuple(latents), ranks, sharding, compute)
    if plan.need.total <= free:
        return None
    height, width = plan.latents[3:]
    device = "the device has" if ranks == 1 else "each of the devices has"
    choices = list(_alternatives(plan, free)) or ["a smaller width and height"]
    return (
        f"A video of {width * SPACE} x {height * SPACE}, {video_frames(plan.latent_frames)} frames needs about "
        f"{readable(plan.need.total)} to denoise, but {device} {readable(free)} for it; choose {_either(choices)}."
    )


def _alternatives(plan: Plan, free: int) -> Iterator[str]:
    """What would fit, one change at a time."""
    frames = longest(lambda count: plan.shorter(count).need, plan.latent_frames - 1, free)
    if frames >= WORTH_A_TRY:
        yield f"{video_frames(frames)} frames or fewer"
    for title, size in file_sizes(plan.config, plan.compute):
        if size < plan.weights and replace(plan, weights=size).need.total <= free:
            yield f"a smaller file of weights ({title}, {readable(size)})"
            break
    if plan.ranks > 1 and plan.sharding == "replicated" and replace(plan, sharding="sharded").need.total <= free:
        yield "sharded weights"
    elif plan.sharding != "offloaded" and replace(plan, sharding="offloaded").need.total <= free:
        yield f"offloaded weights ({readable(plan.weights)} in the machine's memory)"
    spread = "sharded" if plan.sharding == "replicated" else plan.sharding
    for ranks in MORE_RANKS:
        more = replace(plan, ranks=ranks, sharding=spread)
        if ranks > plan.ranks and usable_ranks(ranks, plan.config.num_heads) == ranks and more.need.total <= free:
            yield f"{ranks} GPUs with {spread} weights"
            break


def _either(choices: Sequence[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last
