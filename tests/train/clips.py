"""Clips whose frames tell their number, at any times; written with PyAV, so that the reader is not its own judge."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
from PIL import Image

CODECS = {
    ".mkv": ("ffv1", "bgr0", {}),  # lossless
    ".mp4": ("libx264", "yuv420p", {"crf": "4", "preset": "ultrafast"}),
    ".mov": ("libx264", "yuv420p", {"crf": "4", "bf": "3"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"crf": "4", "cpu-used": "8", "deadline": "realtime"}),
}


def numbered(number: int, width: int = 48, height: int = 32) -> np.ndarray:
    """A frame (H, W, 3) uint8: three bands of grey, which are the digits of its number to the base of 16."""
    digits = np.array([number // 256, number // 16 % 16, number % 16])
    row = (16 * digits + 8).repeat(width // 3)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number that a frame of `numbered` tells, also where its greys are a little off."""
    bands = np.asarray(frame)[..., 0].mean(0).reshape(3, -1).mean(1)
    return int(np.dot(bands // 16, [256, 16, 1]))


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    times: Iterable[Fraction],
    rate: Fraction = Fraction(30),
    options: Mapping[str, str] = MappingProxyType({}),
    pixel: Fraction = Fraction(1),
) -> Path:
    """Frames (H, W, 3) uint8, each shown from its time on.

    Args:
        rate: frames a second, as the file says; the last frame stays for so long.
        options: of the codec.
        pixel: width to height of a pixel.
    """
    codec, pixels, usual = CODECS[path.suffix]
    step = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={**usual, **options})
        stream.pix_fmt, stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = pixels, step, pixel
        for frame, time in zip(frames, times, strict=True):
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format=pixels)
            picture.pts, picture.time_base = int(time / step), step
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_numbered(path: Path, count: int, fps: float, **options: str) -> Path:
    """options: of the codec."""
    rate = Fraction(fps).limit_denominator(1001)
    return write_clip(path, map(numbered, range(count)), (number / rate for number in range(count)), rate, options)


def write_gif(path: Path, frames: Sequence[np.ndarray], pauses: Sequence[int]) -> Path:
    """By Pillow. pauses: milliseconds for which each is shown."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=list(pauses), disposal=1)
    return path


def with_caption(path: Path, caption: str = "a clip") -> Path:
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path
