"""Noise masks of latents: 1 where a clip is made anew, 0 where it stays.

A latent stands for 8 x 8 pixels of 6 frames; the first one of a video, for those of one frame. It is made anew if any
of its pixels is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MochiError
from ..geometry import SPACE, TIME, frame_count, latent_shape


def latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """The mask of latents, (1, 1, T, h, w), for a mask of pixels.

    Args:
        mask: (1, H, W) for all frames, or (F, H, W). One of another size than the video is stretched to it, and no
            pixel is lost.
        latents: those of the video, (B, 12, T, h, w).

    Raises MochiError on another number of frames.
    """
    t, h, w = latents.shape[2:]
    frames = frame_count(t)
    if len(mask) not in (1, frames):
        raise MochiError(f"The mask has {len(mask)} pictures, but must have 1, or as many as the clip: {frames}.")
    # Windows that overlap where sizes do not divide: no pixel is left out.
    pixels = F.adaptive_max_pool2d(mask[:, None].float(), (h, w)).movedim(0, 1)  # (1, F, h, w)
    if pixels.shape[1] == 1:
        return pixels[:, :, None].repeat(1, 1, t, 1, 1)
    rest = pixels[:, 1:].unflatten(1, (t - 1, TIME)).amax(2)
    return torch.cat((pixels[:, :1], rest), dim=1)[:, None]


def extended(latents: Tensor, frames: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Latents with room for more frames behind them, and a mask by which the room is made anew.

    Args:
        latents: of the clip, (B, 12, T, h, w).
        frames: of the longer video, 6k + 1.
        mask: of the clip, (1 or B, 1 or 12, T, h, w). None: all of the clip stays.

    Returns latents (B, 12, T', h, w) and their mask (1 or B, 1 or 12, T', h, w). Raises MochiError unless frames is
    6k + 1 and more than the clip has.
    """
    b, channels, t, h, w = latents.shape
    total = latent_shape(w * SPACE, h * SPACE, frames)[2]
    if total <= t:
        raise MochiError(f"frames is {frames}, but the clip has {frame_count(t)} already: choose more.")
    room = latents.new_zeros(b, channels, total - t, h, w)
    kept = room.new_zeros(1, 1, t, h, w) if mask is None else mask
    made = kept.new_ones(*kept.shape[:2], total - t, h, w)
    return torch.cat((latents, room), dim=2), torch.cat((kept, made), dim=2)
