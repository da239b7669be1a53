"""Frames of a clip or an image as the trainer sees them: at the model's frame rate, cropped and scaled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import MochiError
from ...frames import to_bytes
from ...given import LEAST_SIDE, fitted
from ...images import read_picture
from .items import Item, Unusable

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Footage:
    """What is known of a clip or an image without decoding all of it.

    Attributes:
        width, height: in pixels, as it is shown: upright, with square pixels.
        pictures: how many the file has.
        start, last: when the first and the last one are shown, in seconds as the file counts them.
        seconds: from the first one's beginning to the last one's end.
        pixel: width to height of a stored pixel.
    """

    width: int
    height: int
    pictures: int = 1
    start: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    seconds: Fraction = Fraction(0)
    pixel: Fraction = Fraction(1)

    def frames(self, fps: Fraction) -> int:
        """How many frames it is at another frame rate; an image is one."""
        return max(1, int(self.seconds * fps + Fraction(1, 2)))


def look(item: Item) -> Footage:
    """Raises Unusable on what is no clip or image, is damaged, or is too small to show anything."""
    if item.is_image:
        height, width = _picture(item).shape[1:3]
        footage = Footage(width, height)
    else:
        footage = _look_at_clip(item)
    if min(footage.width, footage.height) < LEAST_SIDE:
        raise Unusable(
            f"it has {footage.width} x {footage.height} pixels, but must have {LEAST_SIDE} x {LEAST_SIDE} at least"
        )
    return footage


def _look_at_clip(item: Item) -> Footage:
    """Reads all of the file, but decodes its first frame only."""
    from .video import frames_from, opened, pixels_of

    times, ends, step = set(), [], Fraction(0)
    with opened(item.path) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        pixel = Fraction(stream.sample_aspect_ratio or 1)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Unusable("damaged: it is cut off")
            if packet.pts is not None and packet.time_base is not None and not packet.is_discard:
                times.add(packet.pts * packet.time_base)
                ends.append((packet.pts + (packet.duration or 0)) * packet.time_base)
    if not times:
        raise Unusable("there are no frames in it")
    start, last = min(times), max(times)
    if len(times) > 1:
        step = (last - start) / (len(times) - 1)
    end = max(ends) if max(ends) > last else last + (1 / Fraction(rate) if rate else step)
    frames = frames_from(item.path, start)
    first = next(frames, None)
    if first is None:
        raise Unusable("damaged: none of its frames can be decoded")
    height, width = pixels_of(first[1], pixel).shape[:2]
    return Footage(width, height, len(times), start, last, end - start, pixel)


def read(item: Item, footage: Footage, size: tuple[int, int], frames: range, fps: Fraction) -> Iterator[Tensor]:
    """Frames (height, width, 3) uint8 of an item, one at a time; only the ones that are shown next are in memory.

    In 8 bits, as those are that the encoder was trained on: it looks at the phase of a pixel's last bit.

    Args:
        size: width and height in pixels; what does not fit into that ratio is cropped around the middle.
        frames: which ones, counted at `fps`. Each is the one of the file that is nearest in time.

    Raises Unusable where the item is damaged, or transparent.
    """
    if item.is_image:
        yield _scaled(_picture(item), size)
        return
    from .video import frames_from, pixels_of

    times = (footage.start + frame / fps for frame in frames)
    shown, scaled = None, torch.empty(0)
    for frame in nearest(frames_from(item.path, footage.start + frames.start / fps), times, footage.last):
        if frame is not shown:  # one that stays on for longer is scaled once
            picture = torch.from_numpy(pixels_of(frame, footage.pixel).astype(np.float32) / 255)
            shown, scaled = frame, _scaled(picture[None], size)
        yield scaled


def nearest(frames: Iterator[tuple[Fraction, Frame]], times: Iterable[Fraction], last: Fraction) -> Iterator[Frame]:
    """For each of ever later times the frame that is nearest; of two that are equally near the later one.

    last: the time of the last frame that there should be. Raises Unusable where it is missing.
    """
    shown, coming = next(frames, None), next(frames, None)
    if shown is None:
        raise Unusable("damaged: none of its frames can be decoded")
    for time in times:
        while coming is not None and abs(coming[0] - time) <= abs(shown[0] - time):
            shown, coming = coming, next(frames, None)
        if coming is None and abs(last - time) < abs(shown[0] - time):
            raise Unusable(f"damaged: no frames can be decoded after {float(shown[0]):.1f} s")
        yield shown[1]


def _picture(item: Item) -> Tensor:
    try:
        return read_picture(str(item.path), item.name)
    except MochiError as error:
        raise Unusable(str(error).removeprefix(item.name).removeprefix(": ").strip()) from error


def _scaled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    try:
        return to_bytes(fitted(picture, *size, "it"))[0]
    except MochiError as error:
        raise Unusable(str(error)) from error
