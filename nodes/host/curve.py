"""A picture of how a loss falls."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Point = tuple[int, float]
"""A step, and the loss of it."""

SIZE = (480, 240)
MARGIN = (52, 12, 12, 24)
"""In pixels: left, top, right, bottom."""

FINE = 2
"""The picture is drawn so many times as large, for smooth lines."""

BACKGROUND, FRAME, WORDS = "#1e1e1e", "#4a4a4a", "#c8c8c8"
SINGLE, MEAN, HELD_OUT = "#34506b", "#5aa9f0", "#f0a05a"

CUT = 0.05
"""The share of the losses above which the picture ends: a few high ones would leave no room for the rest."""


def draw_curve(path: Path, losses: Sequence[Point], held_out: Sequence[Point], steps: int, window: int) -> None:
    """Draw losses by step, their mean over the last `window` steps, and those on held-out clips, into a PNG.

    steps: of the whole run, the width of the picture.
    """
    picture = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), BACKGROUND)
    draw, frame = ImageDraw.Draw(picture), _Frame(losses, held_out, steps)
    draw.rectangle(frame.box, outline=FRAME, width=FINE)
    draw.line([frame.place(point) for point in _thinned(losses)], fill=SINGLE, width=FINE)
    draw.line([frame.place(point) for point in _thinned(trailing_means(losses, window))], fill=MEAN, width=2 * FINE)
    for point in held_out:
        x, y = frame.place(point)
        draw.ellipse((x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE), fill=HELD_OUT)
    picture = picture.resize(SIZE, Image.Resampling.LANCZOS)
    frame.label(ImageDraw.Draw(picture), bool(held_out))
    picture.save(path)


def trailing_means(losses: Sequence[Point], window: int) -> list[Point]:
    """At each step the mean of the last losses, `window` of them at most."""
    found, total = [], 0.0
    for i, (step, loss) in enumerate(losses):
        total += loss - (losses[i - window][1] if i >= window else 0.0)
        found.append((step, total / min(i + 1, window)))
    return found


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """As many as can be told apart, the last one among them."""
    every = max(1, len(points) // SIZE[0])
    return points[(len(points) - 1) % every :: every] if points else points


class _Frame:
    """Where a step and a loss are in the picture, in its fine pixels."""

    def __init__(self, losses: Sequence[Point], held_out: Sequence[Point], steps: int):
        left, top, right, bottom = (FINE * pixels for pixels in MARGIN)
        self.box = left, top, FINE * SIZE[0] - right, FINE * SIZE[1] - bottom
        values = sorted(loss for _, loss in losses)
        values = values[: max(1, round(len(values) * (1 - CUT)))] + [loss for _, loss in held_out]
        self._steps, self._low, self._high = steps, min(values, default=0.0), max(values, default=1.0)
        self._high = max(self._high, self._low + 1e-6)

    def place(self, point: Point) -> tuple[float, float]:
        left, top, right, bottom = self.box
        across = point[0] / max(1, self._steps)
        up = (point[1] - self._low) / (self._high - self._low)
        return left + across * (right - left), bottom - min(max(up, 0.0), 1.0) * (bottom - top)

    def label(self, draw: ImageDraw.ImageDraw, has_held_out: bool) -> None:
        """Write what the lines are, and where they end, into the picture of its final size."""
        left, top, right, bottom = (pixels // FINE for pixels in self.box)
        font = ImageFont.load_default()
        draw.text((left - 4, top), f"{self._high:.4f}", WORDS, font, anchor="ra")
        draw.text((left - 4, bottom), f"{self._low:.4f}", WORDS, font, anchor="rs")
        draw.text((left, bottom + 5), "0", WORDS, font)
        draw.text((right, bottom + 5), f"step {self._steps}", WORDS, font, anchor="ra")
        draw.text((right - 8, top + 6), "loss", MEAN, font, anchor="ra")
        if has_held_out:
            draw.text((right - 8, top + 20), "on held-out clips", HELD_OUT, font, anchor="ra")
