"""A small picture of latents, while the video is being made."""

import io

import torch
from PIL import Image
from torch import Tensor

from ..config import LatentStats

SIDE = 384
"""Pixels of the longer side."""


def preview(estimate: Tensor, stats: LatentStats) -> bytes:
    """A JPEG of the middle frame of DiT latents (B, 12, T, h, w).

    In the colours that the latents suggest, where the model's statistics say which; else its three strongest
    components are taken for red, green and blue: shapes can be seen then, and colours are not the video's.
    """
    frame = estimate[0, :, estimate.shape[2] // 2].float().cpu().movedim(0, -1)  # (h, w, 12)
    if stats.rgb:
        colours = frame @ torch.tensor(stats.rgb) + torch.tensor(stats.rgb_bias)
    else:
        colours = _components(frame.flatten(0, 1)).view(*frame.shape[:2], 3)
    picture = Image.fromarray(((colours + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy())
    scale = SIDE / max(picture.size)
    file = io.BytesIO()
    picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def _components(points: Tensor) -> Tensor:
    """Points (N, 12) -> their three strongest components (N, 3), in -1 to 1 for most."""
    centred = points - points.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # the strongest last
    # A direction has no sign of its own; so that it does not flicker, the largest of its numbers is positive.
    strongest = directions[:, -3:].flip(1)
    signs = torch.gather(strongest, 0, strongest.abs().argmax(0, keepdim=True)).sign()
    values = centred @ (strongest * signs)
    return values / (2 * values.std(0) + 1e-6)
