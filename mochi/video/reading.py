"""What can be known of a video without decoding it, and the texts that are embedded in it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.error import FFmpegError
from PIL import Image

from ..errors import MochiError
from .kinds import FRAMES, kind_of


@dataclass(frozen=True)
class Found:
    """What a video is.

    Attributes:
        format: "mp4", "webm", "gif" or "png", which is a picture or a folder of frames.
        size: width and height in pixels.
        fps: frames a second, where the file says so.
        metadata: texts by their names, as VideoWriter embeds them; those that FFmpeg adds are left out.
    """

    format: str
    size: tuple[int, int]
    frames: int
    fps: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        return None if self.fps is None else self.frames / self.fps


FFMPEG_S = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}


def look_at(path: Path) -> Found | None:
    """A video; None where it is something else.

    Raises MochiError on a video that cannot be read, and OSError where there is no file.
    """
    format = kind_of(path)
    if format is None:
        return None
    try:
        return _pictures(path) if format == "png" else _film(path, format)
    except Image.DecompressionBombError as error:
        raise MochiError(f"{path}: {error}") from error
    except (OSError, FFmpegError, ValueError, LookupError, SyntaxError) as error:  # SyntaxError: Pillow's, of a bad PNG
        raise MochiError(f"{path}: a {format} that is cut short or corrupt ({error})") from error


def _pictures(path: Path) -> Found:
    files = sorted(path.glob(FRAMES)) if path.is_dir() else [path]
    with Image.open(files[0]) as picture:
        texts = {str(name): text for name, text in picture.info.items() if isinstance(text, str)}
        return Found("png", picture.size, len(files), metadata=texts)


def _film(path: Path, format: str) -> Found:
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        metadata = {name.lower(): text for name, text in film.metadata.items() if name.lower() not in FFMPEG_S}
        size, rate = (stream.width, stream.height), stream.average_rate
        packets = [packet for packet in film.demux(stream) if packet.size]
    if format == "gif":
        return Found(format, size, len(packets), _rate_of_gif(path), _texts_of_gif(metadata.get("comment", "")))
    return Found(format, size, len(packets), None if rate is None else round(float(rate), 3), metadata)


def _rate_of_gif(path: Path) -> float | None:
    """A gif has a pause for each frame, in hundredths of a second."""
    pauses = []
    with Image.open(path) as gif:
        for number in range(getattr(gif, "n_frames", 1)):
            gif.seek(number)
            pauses.append(gif.info.get("duration", 0))
    return round(1000 * len(pauses) / sum(pauses), 2) if sum(pauses) else None


def _texts_of_gif(comment: str) -> dict[str, str]:
    """A gif has one text, in which there may be several."""
    with suppress(ValueError):
        texts = json.loads(comment)
        if isinstance(texts, dict):
            return {str(name): text for name, text in texts.items() if isinstance(text, str)}
    return {"comment": comment} if comment else {}
