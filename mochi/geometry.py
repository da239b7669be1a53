"""What sizes a video can have, and the latents that belong to them."""

import math

from .errors import MochiError

SPACE, TIME, PATCH = 8, 6, 2  # frames to latents; latents to tokens


def nearest_frames(frames: int) -> int:
    """The valid frame count, 6k + 1, nearest to `frames`."""
    return max(0, math.floor((frames - 1) / TIME + 0.5)) * TIME + 1


def frame_count(latent_frames: int) -> int:
    """The number of frames that a number of latent frames stands for."""
    return TIME * (latent_frames - 1) + 1


def latent_count(frames: int) -> int:
    """The number of latent frames of a number of frames, 6k + 1."""
    return (frames - 1) // TIME + 1


def nearest_length(pixels: int) -> int:
    """The valid width or height, a positive multiple of 16, nearest to `pixels`."""
    step = SPACE * PATCH
    return max(1, math.floor(pixels / step + 0.5)) * step


def check_frames(frames: int) -> None:
    """Raise MochiError unless the frame count is 6k + 1."""
    if frames != nearest_frames(frames):
        raise MochiError(
            f"frames is {frames}, but Mochi makes 6k + 1 frames (1, 7, 13, ... 163): "
            f"the nearest is {nearest_frames(frames)}"
        )


def check_size(width: int, height: int) -> None:
    """Raise MochiError unless width and height, in pixels, are multiples of 16."""
    for name, pixels in (("width", width), ("height", height)):
        if pixels != nearest_length(pixels):
            raise MochiError(
                f"{name} is {pixels}, but must be a multiple of 16: the nearest is {nearest_length(pixels)}"
            )


def latent_shape(width: int, height: int, frames: int, batch: int = 1, channels: int = 12) -> tuple[int, ...]:
    """Shape (B, 12, T, h, w) of the latents of a video. Raises MochiError on a size that cannot be."""
    check_size(width, height)
    check_frames(frames)
    return (batch, channels, latent_count(frames), height // SPACE, width // SPACE)
