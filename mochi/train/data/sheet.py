"""A picture of what is trained on, for a person to look at before it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...errors import MochiError
from ...video.paths import temporary_beside
from .dataset import Example

ROWS = 64
"""Examples on a sheet at most, evenly chosen."""

SIDE, GAP, FRAMES, TEXT_WIDTH = 112, 6, 5, 420
"""Pixels of a picture's longer side and between pictures; pictures in a row; pixels of the text beside them."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, INK, PALE = (250, 250, 250), (20, 20, 20), (110, 110, 110)


def contact_sheet(examples: Sequence[Example], path: Path) -> None:
    """Write a PNG with a row for each example: frames as they were encoded, the bucket, the name and the caption.

    Raises MochiError where it cannot be written, or where the cache was emptied.
    """
    count = min(ROWS, len(examples))
    rows = [_row(examples[place * len(examples) // count]) for place in range(count)]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    part = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(part, format="PNG")
        os.replace(part, path)
    except OSError as error:
        raise MochiError(f"{path}: the contact sheet could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def _row(example: Example) -> Image.Image:
    pictures = [Image.fromarray(frame.numpy()) for frame in example.thumbnails()]
    scale = SIDE / max(pictures[0].size)
    size = round(pictures[0].width * scale), round(pictures[0].height * scale)
    row = Image.new("RGB", (GAP + FRAMES * (SIDE + GAP) + TEXT_WIDTH, SIDE + GAP), PAPER)
    for place, picture in enumerate(pictures[:FRAMES]):
        row.paste(picture.resize(size), (GAP + place * (SIDE + GAP), GAP // 2))
    width, height, frames = example.bucket
    length = "an image" if frames == 1 else f"{frames} frames"
    font, left, top = ImageFont.load_default(13), GAP + FRAMES * (SIDE + GAP), GAP // 2
    draw = ImageDraw.Draw(row)
    lines = [(example.name, PALE), (f"{width} x {height}, {length}", PALE)]
    lines += [(line, INK) for line in _wrapped(example.caption, draw, font, TEXT_WIDTH - GAP)]
    most = SIDE // 16
    if len(lines) > most:
        lines = [*lines[: most - 1], ("...", PALE)]
    for line, colour in lines:
        draw.text((left, top), line, colour, font)
        top += 16
    return row


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: Font, width: int) -> list[str]:
    """Lines of whole words, each no wider than so many pixels; a longer word has a line to itself."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
