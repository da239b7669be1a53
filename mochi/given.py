"""Pictures and clips that a video is given: where they stand among its latent frames, and how they are made to fit.

Frames are counted as people count them, from 0, or from the end, -1 being the last one. A latent stands for 6 frames;
the first one of a video, or of a clip, for one.
"""

from collections.abc import Container

import torch.nn.functional as F
from torch import Tensor

from .errors import MochiError
from .geometry import TIME, check_frames

LEAST_SIDE = 16
"""Pixels of the smallest picture that is taken."""


def frame_number(frame: int, frames: int, name: str = "frame") -> int:
    """The number from 0 on of a frame that may be counted from the end. Raises MochiError where there is none."""
    if not -frames <= frame < frames:
        nearest = frames - 1 if frame > 0 else -frames
        raise MochiError(
            f"{name} is {frame}, but the video has {frames} frames, 0 to {frames - 1} (or -1, the last one, to "
            f"{-frames}): the nearest is {nearest}"
        )
    return frame % frames


def latent_places(frame: int, clip: int, frames: int, name: str = "frame", image: str = "image") -> range:
    """The latent frames of a video that a picture, or a clip, is given to.

    Args:
        frame: where its first frame stands or, counted from the end, its last one.
        clip: how many frames it has, 6k + 1.
        frames: how many the video has.
        name, image: of the widgets, for messages.

    Raises MochiError where it does not fit.
    """
    check_frames(clip)
    if clip > frames:
        raise MochiError(f"{image} has {clip} frames, but the video only {frames}: take {frames} of them at most")
    number = frame_number(frame, frames, name)
    first = number - (clip - 1) if frame < 0 else number
    if not 0 <= first <= frames - clip:
        nearest = clip - 1 - frames if frame < 0 else frames - clip
        raise MochiError(
            f"{name} is {frame}, but a clip of {clip} frames does not fit there into a video of {frames}: the nearest "
            f"is {nearest}"
        )
    start = -(-first // TIME)
    return range(start, start + 1 + (clip - 1) // TIME)


def nearest_free(frame: int, taken: Container[int], frames: int) -> int | None:
    """The frame nearest to one of a video, whose latent frame is not among those taken; None where there is none."""
    free = (number for number in range(frames) if -(-number // TIME) not in taken)
    return min(free, key=lambda number: abs(number - frame), default=None)


def frames_of_latent(place: int) -> str:
    """The frames that a latent stands for, in words."""
    return "frame 0" if place == 0 else f"frames {TIME * (place - 1) + 1} to {TIME * place}"


def noise_multiplier(strength: float, name: str = "strength") -> float:
    """How much of the noise of a free frame a given one gets. Raises MochiError on a strength outside 0 to 1."""
    if not 0 <= strength <= 1:
        nearest = 1 if strength > 1 else 0
        raise MochiError(f"{name} is {strength:g}, but must be between 0 and 1: the nearest is {nearest}")
    return 1 - strength


def fitted(pictures: Tensor, width: int, height: int, name: str = "image") -> Tensor:
    """Pictures (F, H, W, 1, 3 or 4) in [0, 1], cropped in the middle to the ratio of a video and resized to its size.

    Raises MochiError on transparency, which a video does not have, on pictures that are too small to show anything, and
    on values that are no numbers.
    """
    rows, columns, channels = pictures.shape[1:]
    if channels not in (1, 3, 4):
        raise MochiError(f"{name} has {channels} channels, but must have 3: red, green and blue")
    if not pictures.isfinite().all():
        raise MochiError(f"{name} has values that are no numbers (NaN): look at the node that it comes from")
    if min(rows, columns) < LEAST_SIDE:
        raise MochiError(f"{name} has {columns} x {rows} pixels, but must have {LEAST_SIDE} x {LEAST_SIDE} at least")
    if channels == 4 and (pictures[..., 3] < 1).any():
        raise MochiError(f"{name} is transparent in places, which a video cannot be: put it on a background first")
    top, left, kept_rows, kept_columns = crop_of(rows, columns, width, height)
    cropped = pictures[:, top : top + kept_rows, left : left + kept_columns, :3].movedim(-1, 1).float()
    if channels == 1:
        cropped = cropped.expand(-1, 3, -1, -1)
    if (kept_rows, kept_columns) != (height, width):
        cropped = F.interpolate(cropped, (height, width), mode="bicubic", antialias=True)
    return cropped.clamp(0, 1).movedim(1, -1)


def crop_of(rows: int, columns: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The largest part in the middle of a picture that has the ratio of a video: top, left, rows, columns."""
    kept_columns = min(columns, max(1, round(rows * width / height)))
    kept_rows = min(rows, max(1, round(columns * height / width)))
    return (rows - kept_rows) // 2, (columns - kept_columns) // 2, kept_rows, kept_columns
