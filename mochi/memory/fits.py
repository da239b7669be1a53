"""What fits on which card, at the published model's own size or, where that is too much, at less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..config import PREVIEW, ModelConfig
from ..geometry import latent_shape
from .advice import WORTH_A_TRY, longest, video_frames
from .denoise import denoising
from .need import CONTEXT, GB, Need
from .weights import Kept, weight_bytes

CARDS = (8, 12, 16, 24, 48, 80)
"""Sizes of cards in GB of 10^9 bytes; those that are sold have a little more."""

ALONE = {"whole": "replicated", "offloaded": "offloaded"}
TOGETHER = {"whole": "replicated", "sharded": "sharded", "sharded and offloaded": "offloaded"}
"""Ways to keep weights, the fastest first: in words, and as a group's setting."""

SIZES = ((848, 480), (640, 352))


@dataclass(frozen=True)
class Fit:
    """A way to keep the weights, and the longest video of a size, up to the published length, that it leaves room for.

    host: bytes of weights in the machine's memory.
    """

    way: str
    width: int
    height: int
    frames: int
    host: int


def fits(kept: Kept, card: int, cards: int, model: ModelConfig = PREVIEW) -> list[Fit]:
    """What can be done with weights that are kept so, on `cards` cards of `card` GB each: the fastest way to make
    the longest video, behind faster ways that leave room for a shorter one. Empty where nothing fits.

    At the published size, and at a smaller one only where nothing fits at that.
    """
    for size in SIZES:
        found: list[Fit] = []
        for way, sharding in (ALONE if cards == 1 else TOGETHER).items():
            fit = _longest_fit(kept, card, cards, model, way, sharding, size)
            if fit is not None and (not found or fit.frames > found[-1].frames):
                found.append(fit)
        if found:
            return found
    return []


def _longest_fit(
    kept: Kept, card: int, cards: int, model: ModelConfig, way: str, sharding: str, size: Sequence[int]
) -> Fit | None:
    weights = weight_bytes(model.dit, kept, torch.bfloat16)
    shape = latent_shape(*size, model.defaults.frames)

    def need(frames: int) -> Need:
        return denoising(model.dit, weights, (*shape[:2], frames, *shape[3:]), cards, sharding)

    count = longest(need, shape[2], card * GB - CONTEXT)
    return Fit(way, *size, video_frames(count), need(count).host) if count >= WORTH_A_TRY else None
