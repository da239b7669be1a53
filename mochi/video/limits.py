"""What the video formats cannot hold, known before a frame is there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import MochiError

FPS = (0.01, 1000)
"""Frames a second, of any format."""


@dataclass(frozen=True)
class Limits:
    """The limits of a format.

    Attributes:
        fps: the most frames a second.
        side: the most pixels in a row or column.
        memory: whether FFmpeg encodes it, which limits the size of a frame.
        instead: what to do where there are too many frames a second.
    """

    fps: float = FPS[1]
    side: int = 65535
    memory: bool = True
    instead: str = ""


LIMITS = {
    "mp4": Limits(side=16384),  # of x264
    "webm": Limits(),
    "gif": Limits(
        fps=50, instead=": players take a shorter pause for a tenth of a second. Choose mp4 or webm, or less"
    ),
    "png": Limits(side=2**31 - 1, memory=False),
}


def check_video(format: str, fps: float | Fraction, size: Sequence[int] | None = None) -> None:
    """Raise MochiError for what a video of this format cannot be.

    fps: frames a second. size: width and height in pixels, where they are known.
    """
    if format not in LIMITS:
        raise MochiError(f"format is {format!r}, but must be one of {', '.join(LIMITS)}")
    limits = LIMITS[format]
    exact_fps(fps)
    if fps > limits.fps:
        raise MochiError(f"fps is {float(fps):g}, but {format} can have {limits.fps:g} at most{limits.instead}")
    for name, length in zip(("width", "height"), size or (), strict=False):
        if not 1 <= length <= limits.side:
            raise MochiError(f"{name} is {length}, but a side of a {format} can have 1 to {limits.side} pixels")
    if size and limits.memory and 8 * math.prod(length + 128 for length in size) >= 2**31:  # as FFmpeg counts
        raise MochiError(f"{size[0]} x {size[1]} pixels are too many for {format}; choose png, or less")


def exact_fps(fps: float | Fraction) -> Fraction:
    """Frames a second as the fraction that video files store (29.97 -> 2997/100)."""
    if not FPS[0] <= fps <= FPS[1]:  # NaN is not within them either
        raise MochiError(f"fps is {fps}, but must be between {FPS[0]} and {FPS[1]}")
    return Fraction(fps).limit_denominator(1001)
