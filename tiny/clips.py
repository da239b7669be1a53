"""Moving-shape clips drawn with numpy: the whole world of the tiny model.

One shape of one colour moves in one direction, at constant speed, on a plain background. Only the window
around the object is computed, so that a clip of 25 frames costs about a millisecond.
"""

import math
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.08, 0.08),
    "green": (0.08, 0.72, 0.12),
    "blue": (0.10, 0.16, 0.92),
    "yellow": (0.96, 0.90, 0.10),
    "magenta": (0.92, 0.12, 0.88),
    "cyan": (0.10, 0.86, 0.92),
}
NEW_SHAPES = ("cross",)
NEW_COLOURS: dict[str, tuple[str, str]] = {"ocean": ("blue", "cyan")}
"""What the tiny model was never trained on, for it to learn; see concept.py. A new colour is two, above and below the
object's centre: the tiny VAE turns any other plain colour into one that it knows."""
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Unit steps as (x, y), y pointing down as in images."""
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.0, 0.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "gray": (0.5, 0.5, 0.5),
    "brown": (0.45, 0.26, 0.10),
}

FRAMES = 25
SIZE = 64

# Sizes that make the shapes look equally large: a factor on Scene.radius for each.
_SQUARE_HALF = 0.92
_TRIANGLE_RADIUS = 1.35
_STAR_RADIUS = 1.45
_CROSS_ARM, _CROSS_HALF_WIDTH = 1.2, 0.43


@dataclass(frozen=True)
class Scene:
    """What one clip shows. Lengths are in pixels of a 64x64 frame; `draw` scales them to other sizes."""

    shape: str
    colour: str
    direction: str
    background: str
    radius: float = 10.0
    start: tuple[float, float] = (32.0, 32.0)
    """Centre (x, y) of the object in frame 0."""
    speed: float = 0.8
    """Pixels a frame; 0 is a still clip."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the caption tells: (shape, colour, direction, background)."""
        return (self.shape, self.colour, self.direction, self.background)

    def centre(self, frame: float) -> tuple[float, float]:
        """Centre (x, y) of the object at a frame number."""
        dx, dy = DIRECTIONS[self.direction]
        return (self.start[0] + dx * self.speed * frame, self.start[1] + dy * self.speed * frame)


def extents(shape: str, radius: float) -> tuple[float, float, float, float]:
    """How far a shape reaches from its centre, in pixels: (left, right, up, down)."""
    if shape == "circle":
        return (radius, radius, radius, radius)
    if shape == "square":
        half = radius * _SQUARE_HALF
        return (half, half, half, half)
    if shape == "triangle":
        r = radius * _TRIANGLE_RADIUS
        side = r * math.sqrt(3) / 2
        return (side, side, r, r / 2)
    if shape == "cross":
        arm = radius * _CROSS_ARM
        return (arm, arm, arm, arm)
    r = radius * _STAR_RADIUS
    side = r * math.sin(math.radians(72))
    return (side, side, r, r * math.cos(math.radians(36)))


def random_scene(
    rng: np.random.Generator,
    shape: str | None = None,
    colour: str | None = None,
    direction: str | None = None,
    background: str | None = None,
) -> Scene:
    """A scene whose object stays wholly inside 25 frames of 64x64 and moves 16 to 24 pixels.

    Attributes that are given are kept, the others are drawn uniformly.
    """
    shape = shape or SHAPES[rng.integers(len(SHAPES))]
    colour = colour or tuple(COLOURS)[rng.integers(len(COLOURS))]
    direction = direction or tuple(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    background = background or tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    radius = float(rng.uniform(10.0, 12.5))
    travel = float(rng.uniform(16.0, 24.0))
    left, right, up, down = (e + 2.0 for e in extents(shape, radius))
    low = [left, up]
    high = [SIZE - right, SIZE - down]
    dx, dy = DIRECTIONS[direction]
    axis = 0 if dx else 1
    if dx + dy > 0:
        high[axis] -= travel
    else:
        low[axis] += travel
    start = (float(rng.uniform(low[0], high[0])), float(rng.uniform(low[1], high[1])))
    return Scene(shape, colour, direction, background, radius, start, travel / (FRAMES - 1))


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the outline in pixels, negative inside (exact on the edges, close enough near corners).

    Args:
        x, y: offsets from the centre, any shapes that broadcast, y pointing down.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * _SQUARE_HALF
    if shape == "triangle":
        inner = radius * _TRIANGLE_RADIUS / 2
        return np.maximum(math.sqrt(3) / 2 * np.abs(x) - 0.5 * y, y) - inner
    if shape == "star":
        # The five lines of a pentagram have the directions of its tips as normals. Inside is where at most one
        # of the lines has the point on its far side: the second largest of the five distances decides.
        # With x >= 0 the upper left line is never among the two largest.
        inner = radius * _STAR_RADIUS * math.cos(math.radians(72))
        x = np.abs(x)
        side, low = math.sin(math.radians(36)) * x, math.cos(math.radians(36)) * y
        top, right = -y, math.sin(math.radians(72)) * x - math.cos(math.radians(72)) * y
        high_1, low_1 = np.maximum(top, right), np.minimum(top, right)
        high_2, low_2 = low + side, low - side
        return np.maximum(np.minimum(high_1, high_2), np.maximum(low_1, low_2)) - inner
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        arm, half = radius * _CROSS_ARM, radius * _CROSS_HALF_WIDTH
        return np.minimum(np.maximum(x - arm, y - half), np.maximum(x - half, y - arm))
    raise ValueError(f"unknown shape {shape!r}; known are {', '.join(SHAPES + NEW_SHAPES)}")


def draw_with_mask(
    scene: Scene, frames: int = FRAMES, size: int = SIZE, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws frames `first` to `first + frames - 1` of a scene, with edges smoothed over one pixel.

    Returns:
        The clip (frames, size, size, 3) in [0, 1] and the share of each pixel that the object covers
        (frames, size, size), both float32.
    """
    unit = size / SIZE
    radius = scene.radius * unit
    reach = math.ceil(max(extents(scene.shape, radius))) + 2
    window = 2 * reach + 1
    centres = np.array([scene.centre(first + i) for i in range(frames)], np.float32) * unit - 0.5
    corner = np.floor(centres).astype(np.int64) - reach + 1
    offsets = np.arange(window, dtype=np.float32)
    x = offsets[None, None, :] + (corner[:, 0] - centres[:, 0]).astype(np.float32)[:, None, None]
    y = offsets[None, :, None] + (corner[:, 1] - centres[:, 1]).astype(np.float32)[:, None, None]
    cover = np.clip(0.5 - signed_distance(scene.shape, x, y, radius), 0.0, 1.0).astype(np.float32)

    mask = np.zeros((frames, size, size), np.float32)
    for frame, (left, top) in enumerate(corner):
        x0, x1 = max(left, 0), min(left + window, size)
        y0, y1 = max(top, 0), min(top + window, size)
        if x0 < x1 and y0 < y1:
            mask[frame, y0:y1, x0:x1] = cover[frame, y0 - top : y1 - top, x0 - left : x1 - left]
    ground = np.array(BACKGROUNDS[scene.background], np.float32)
    clip = mask[..., None] * (_ink(scene.colour, centres[:, 1], size) - ground)
    clip += ground
    return clip, mask


def _ink(colour: str, middle: np.ndarray, size: int) -> np.ndarray:
    """The colour of an object (3,), or of its rows in each frame (F, size, 1, 3).

    middle: the row of its centre in each frame (F,).
    """
    if colour not in NEW_COLOURS:
        return np.array(COLOURS[colour], np.float32)
    above, below = (np.array(COLOURS[name], np.float32) for name in NEW_COLOURS[colour])
    share = np.clip(np.arange(size) - middle[:, None] + 0.5, 0, 1).astype(np.float32)[..., None, None]
    return above + share * (below - above)


def draw(scene: Scene, frames: int = FRAMES, size: int = SIZE, first: int = 0) -> np.ndarray:
    """The clip of `draw_with_mask` alone: (frames, size, size, 3) float32 in [0, 1]."""
    return draw_with_mask(scene, frames, size, first)[0]
