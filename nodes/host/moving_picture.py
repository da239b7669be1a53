"""Small moving pictures of videos, which the editor shows beside other pictures: a video it shows alone."""

from pathlib import Path

import av
from PIL import Image

WIDEST = 320
"""Pixels across."""

MOST = 80
"""Frames. Of more, every second or third one is shown."""


def write_moving_picture(video: Path, path: Path) -> None:
    """Write the frames of a video as an animated WebP, which plays for ever."""
    with av.open(str(video)) as opened:
        stream = opened.streams.video[0]
        rate = float(stream.average_rate or 24)
        frames = [_small(frame.to_image()) for frame in opened.decode(stream)]
    every = -(-len(frames) // MOST)
    first, *others = frames[::every]
    duration = round(1000 * every / rate)
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0, quality=85, method=2)


def _small(frame: Image.Image) -> Image.Image:
    height = max(1, round(frame.height * WIDEST / frame.width))
    return frame.resize((WIDEST, height), Image.Resampling.LANCZOS) if frame.width > WIDEST else frame
