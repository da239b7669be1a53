"""Says what a clip shows, from its pixels alone: colour, direction, shape and background.

No learned part. It is strict where a clip is unclear: a still object has no direction, a blank clip no shape.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .clips import BACKGROUNDS, COLOURS, DIRECTIONS, NEW_COLOURS, NEW_SHAPES, SHAPES, Scene, extents, signed_distance

_GRID = 24
"""Side of the square grid on which masks are compared with templates."""
_MIN_AREA = 0.012
"""Smallest share of a frame that counts as an object (a disc of radius 4 in 64x64)."""
_MAX_AREA = 0.40
_MIN_TRAVEL = 0.08
"""Least displacement between first and last frame, as a share of the frame's side, that counts as motion."""
_MIN_LIKENESS = 0.70
"""Least correlation with the best template for a shape to be named."""
_MAX_COLOUR_DISTANCE = 0.40
_MIN_PURITY = 0.75
"""Least share of an object's half that has the same ink, for the half to have a colour of its own."""


@dataclass(frozen=True)
class Verdict:
    """What the judge sees; None where it cannot tell."""

    shape: str | None
    colour: str | None
    direction: str | None
    background: str | None

    def agrees(self, scene: Scene) -> tuple[bool, bool, bool, bool]:
        """Which of (shape, colour, direction, background) are as the scene has them."""
        shape, colour, direction, background = scene.key
        return (
            self.shape == shape,
            self.colour == colour,
            self.direction == direction,
            self.background == background,
        )


def judge(frames: np.ndarray) -> Verdict:
    """Judges one clip.

    Args:
        frames: (F, H, W, 3), floats in [0, 1].
    """
    frames = np.asarray(frames, np.float32)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.shape[0]:
        raise ValueError(f"a clip is (frames, height, width, 3), this is {frames.shape}")
    ground = np.median(_border(frames), axis=0)
    background = _nearest(ground, BACKGROUNDS)
    distance = np.sqrt(np.square(frames - ground).sum(-1))
    object_pixels = _core_pixels(frames, distance)
    if object_pixels is None:
        return Verdict(None, None, None, background)
    ink = np.median(object_pixels, axis=0)
    two = _two_tones(frames, ground, distance)
    colour, cover = two if two is not None else (_nearest(ink, COLOURS), _cover(frames, ground, ink))
    shares = cover.mean((1, 2))
    seen = (shares > _MIN_AREA) & (shares < _MAX_AREA)
    if seen.mean() < 0.75:
        return Verdict(None, None, None, background)
    return Verdict(_shape(cover[seen]), colour, _direction(cover, seen), background)


def _border(frames: np.ndarray) -> np.ndarray:
    """Pixels of the two outermost rings of every frame, (n, 3)."""
    sides = (frames[:, :2], frames[:, -2:], frames[:, :, :2], frames[:, :, -2:])
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def _core_pixels(frames: np.ndarray, distance: np.ndarray) -> np.ndarray | None:
    """Pixels that differ clearly from the background and not at the object's soft edge, (n, 3)."""
    strongest = float(np.quantile(distance, 0.99))
    if strongest < 0.25:
        return None
    return frames[distance > 0.75 * strongest]


def _cover(frames: np.ndarray, ground: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Where each pixel lies between background (0) and object (1) in colour, (F, H, W)."""
    axis = ink - ground
    share = (frames - ground) @ axis / max(float(axis @ axis), 1e-6)
    return np.where(share > 0.25, np.clip(share, 0.0, 1.0), 0.0).astype(np.float32)


def _two_tones(frames: np.ndarray, ground: np.ndarray, distance: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The name and the cover of an object of two colours, one above the other; None where it has a single one."""
    seen = distance > 0.4 * np.quantile(distance, 0.99)
    rows = np.arange(frames.shape[1])
    middle = (seen.sum(2) @ rows) / np.maximum(seen.sum((1, 2)), 1)
    offset = (rows - middle[:, None])[..., None]  # (F, H, 1)
    parts = (seen & (offset < -1), seen & (offset > 1))
    if not all(part.any() for part in parts):
        return None
    halves = [frames[part] for part in parts]
    inks = [np.median(half, axis=0) for half in halves]
    tones = tuple(_nearest(ink, COLOURS) for ink in inks)
    name = next((name for name, pair in NEW_COLOURS.items() if pair == tones), None)
    if name is None or min(map(_purity, halves, inks)) < _MIN_PURITY:
        return None
    return name, np.where(offset < 0, *(_cover(frames, ground, ink) for ink in inks))


def _purity(pixels: np.ndarray, ink: np.ndarray) -> float:
    """The share of pixels (n, 3) that have about the colour of an ink."""
    return float((np.linalg.norm(pixels - ink, axis=-1) < _MAX_COLOUR_DISTANCE).mean())


def _nearest(colour: np.ndarray, palette: dict[str, tuple[float, float, float]]) -> str | None:
    distances = {name: float(np.linalg.norm(colour - np.array(value))) for name, value in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < _MAX_COLOUR_DISTANCE else None


def _moments(cover: np.ndarray) -> tuple[float, float, float]:
    """Centre x, centre y and area of one frame's cover, in pixels (pixel centres at whole numbers)."""
    area = float(cover.sum())
    x = float(cover.sum(0) @ np.arange(cover.shape[1])) / area
    y = float(cover.sum(1) @ np.arange(cover.shape[0])) / area
    return x, y, area


def _direction(cover: np.ndarray, seen: np.ndarray) -> str | None:
    """Where the object goes. Its way over the clip must be long enough and along one axis, else this is None."""
    index = np.flatnonzero(seen)
    if len(index) < 2:
        return None
    centres = np.array([_moments(cover[i])[:2] for i in index]) / np.array([cover.shape[2], cover.shape[1]])
    third = max(1, len(index) // 5)
    span = (len(index) - 1) / max(len(index) - third, 1)
    dx, dy = (np.median(centres[-third:], axis=0) - np.median(centres[:third], axis=0)) * span
    if max(abs(dx), abs(dy)) < _MIN_TRAVEL or min(abs(dx), abs(dy)) > 0.6 * max(abs(dx), abs(dy)):
        return None
    wanted = (int(np.sign(dx)), 0) if abs(dx) > abs(dy) else (0, int(np.sign(dy)))
    return next(name for name, step in DIRECTIONS.items() if step == wanted)


def _normalised(cover: np.ndarray) -> np.ndarray:
    """One frame's cover, sampled on the grid about its centre of mass, scaled to unit area: (_GRID, _GRID)."""
    x, y, area = _moments(cover)
    offsets = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    half = 1.15 * math.sqrt(area)
    return _bilinear(cover, y + offsets * half, x + offsets * half)


def _bilinear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Image values at the crossings of fractional rows and columns; zero outside."""

    def weights(at: np.ndarray, length: int) -> np.ndarray:
        return np.clip(1 - np.abs(at[:, None] - np.arange(length)[None, :]), 0, 1)

    return weights(rows, image.shape[0]) @ image @ weights(columns, image.shape[1]).T


@lru_cache(maxsize=1)
def _templates() -> dict[str, list[np.ndarray]]:
    """For each shape its normalised cover, sharp and with growing blur, with zero mean and unit norm."""
    found: dict[str, list[np.ndarray]] = {}
    y, x = np.meshgrid(np.arange(-31.5, 32), np.arange(-31.5, 32), indexing="ij")
    for shape in SHAPES + NEW_SHAPES:
        _, _, up, down = extents(shape, 11.0)
        found[shape] = []
        for softness in (1.0, 3.0, 5.0):
            cover = np.clip(0.5 - signed_distance(shape, x, y + (down - up) / 2, 11.0) / softness, 0, 1)
            found[shape].append(_unit(_normalised(np.where(cover > 0.25, cover, 0))))
    return found


def _unit(image: np.ndarray) -> np.ndarray:
    image = image - image.mean()
    return image / max(float(np.linalg.norm(image)), 1e-6)


def _shape(cover: np.ndarray) -> str | None:
    """The shape whose template correlates best with the frames' mean normalised cover."""
    mean = _unit(np.mean([_normalised(frame) for frame in cover], axis=0))
    scores = {shape: max(float((mean * t).sum()) for t in ts) for shape, ts in _templates().items()}
    best = max(scores, key=scores.__getitem__)
    return best if scores[best] > _MIN_LIKENESS else None
