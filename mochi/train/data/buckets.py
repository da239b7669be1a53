"""Which size and length an item is trained with, and where in a long clip."""

import math
import random
from dataclasses import dataclass
from fractions import Fraction

from ...geometry import frame_count, latent_count
from .items import Unusable
from .reading import Footage
from .settings import DataSettings

LEAST_FRAMES = 7
"""Frames of the shortest clip that moves: two latent frames."""

ENLARGING = 0.5
"""How bad it is to enlarge a picture, beside cropping away as much of it."""


@dataclass(frozen=True)
class Bucket:
    """Width and height in pixels, and how many frames."""

    width: int
    height: int
    frames: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def bucket_of(footage: Footage, is_image: bool, fps: Fraction, settings: DataSettings) -> Bucket:
    """The bucket of a clip or an image. Raises Unusable on a clip that is too short for any."""
    size = best_size(footage.width, footage.height, settings.sizes)
    return Bucket(*size, 1 if is_image else _length(footage, fps, settings.frames))


def best_size(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The size for which a picture is cropped and enlarged the least; of equally good ones the largest.

    Both are counted as logarithms of a ratio.
    """

    def badness(size: tuple[int, int]) -> tuple[float, int]:
        across, down = size[0] / width, size[1] / height
        cropped, enlarged = abs(math.log(across / down)), max(0.0, math.log(max(across, down)))
        return round(cropped + ENLARGING * enlarged, 9), -size[0] * size[1]

    return min(sizes, key=badness)


def _length(footage: Footage, fps: Fraction, lengths: tuple[int, ...]) -> int:
    frames = footage.frames(fps)
    if fitting := [length for length in lengths if length <= frames]:
        return max(fitting)
    if footage.pictures == 1:
        raise Unusable("a clip of one frame; save it as an image (PNG) to train on it")
    if frames < LEAST_FRAMES:
        raise Unusable(f"it has {frames} frames at {float(fps):g} a second, but must have {LEAST_FRAMES} at least")
    return frame_count(latent_count(frames))


def window_starts(frames: int, length: int, windows: int, seed: str) -> list[int]:
    """The first frames of windows of a clip: one somewhere in each of as many equal parts of what can be a first frame.

    There are fewer of a shorter clip, whose windows would share more than half of their frames. The same seed gives the
    same ones.
    """
    places, draw = frames - length + 1, random.Random(seed)
    count = min(windows, places, 1 + 2 * (frames - length) // length)
    return [draw.randrange(part * places // count, (part + 1) * places // count) for part in range(count)]
