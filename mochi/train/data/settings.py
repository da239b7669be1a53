"""What clips are cut and scaled to, checked when it is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...config import ModelConfig
from ...errors import MochiError
from ...geometry import check_frames, check_size

USUAL_FRAMES = 37
"""The most frames of a window where nothing is chosen: what the published recipe takes on one GPU."""


@dataclass(frozen=True)
class DataSettings:
    """The buckets that clips go into. Raises MochiError, naming the setting, where there is no such bucket.

    Attributes:
        sizes: width and height in pixels, multiples of 16; a clip gets the one that suits it best.
        frames: lengths of windows, each 6k + 1; a clip gets the longest that it fills.
        windows: how many are taken of a long clip, at most.
        seed: where they begin.
    """

    sizes: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]
    windows: int = 1
    seed: int = 0

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        sizes: Sequence[Sequence[int]] | None = None,
        frames: Sequence[int] | None = None,
        **chosen: Any,
    ) -> DataSettings:
        """Fills what was not chosen: the size that the model makes by default, and its frames, USUAL_FRAMES at most."""
        usual = config.defaults
        wanted = [(usual.width, usual.height)] if sizes is None else [_pair(size) for size in sizes]
        return cls(tuple(wanted), (min(usual.frames, USUAL_FRAMES),) if frames is None else tuple(frames), **chosen)

    def __post_init__(self) -> None:
        for name, values in (("sizes", self.sizes), ("frames", self.frames)):
            if not values:
                raise MochiError(f"{name} is empty, but must have one at least")
        for size in self.sizes:
            width, height = _pair(size)
            check_size(width, height)
        for frames in self.frames:
            if not _is_int(frames):
                raise MochiError(f"frames has {frames!r}, but must have whole numbers, 6k + 1")
            check_frames(frames)
        if not _is_int(self.windows) or self.windows < 1:
            raise MochiError(f"windows is {self.windows!r}, but must be a whole number, 1 or more")
        if not _is_int(self.seed):
            raise MochiError(f"seed is {self.seed!r}, but must be a whole number")


def _pair(size: Any) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2 or not all(map(_is_int, size)):
        raise MochiError(f"sizes has {size!r}, but must have pairs of a width and a height in pixels")
    return size[0], size[1]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
