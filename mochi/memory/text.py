"""Text encoding: T5's weights and little else. It runs before denoising, and a host takes it off the device then."""

from __future__ import annotations

import torch

from .need import SLACK, Need

VALUES = 20
"""Values alive at the peak for each token and channel, attention's scores among them. Measured at T5's proportions and
prompts of 256 tokens, which is what Mochi reads."""

WIDTH, LENGTH = 4096, 256
"""Of T5 v1.1 XXL, and of a prompt."""


def encoding(weights: int, prompts: int = 2, compute: torch.dtype = torch.bfloat16) -> Need:
    """The peak of encoding a prompt and a negative one. weights: bytes of T5's weights as they are kept."""
    return Need({"weights": weights, "activations": activations(WIDTH, prompts, compute), "slack": SLACK})


def activations(width: int, prompts: int, compute: torch.dtype) -> int:
    """Bytes of activations at the peak of a layer."""
    return VALUES * prompts * LENGTH * width * compute.itemsize
