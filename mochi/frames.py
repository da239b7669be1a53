"""Frames from one range of values to another: of the VAE, of pictures, of files."""

import torch
from torch import Tensor


def to_pictures(frames: Tensor, as_bytes: bool = False) -> Tensor:
    """Frames as the VAE makes them, about -1 to 1 -> float32 in [0, 1] or, as bytes, uint8 (see `to_bytes`)."""
    pictures = ((frames.float() + 1) / 2).clamp(0, 1)
    return to_bytes(pictures) if as_bytes else pictures


def to_bytes(pictures: Tensor) -> Tensor:
    """Floats in [0, 1] (clamped) -> uint8 from 0 to 255, rounded; the same on any device, which all round alike."""
    return pictures.float().clamp(0, 1).mul(255).round().to(torch.uint8)
