"""The frames of a clip with their times, one after the other. imageio opens it, by FFmpeg."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from imageio.plugins.pyav import PyAVPlugin
from imageio.v3 import imopen

from .items import Unusable

TimedFrame = tuple[Fraction, VideoFrame]
"""When a frame is shown, in seconds as the file counts them, and the frame."""


class _Video(PyAVPlugin):
    """imageio's reader, which tells no times of frames, with the container that does."""

    @property
    def container(self) -> InputContainer:
        assert isinstance(self._container, InputContainer)
        return self._container

    def close(self) -> None:
        """imageio also collects garbage, for filters; there are none here, and beside torch it takes half a second."""
        if self._container is not None:
            self._container.close()
        self.request.finish()


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A video file. What FFmpeg complains of in the meantime is raised as Unusable."""
    try:
        with imopen(path, "r", plugin=_Video) as video:
            assert isinstance(video, _Video)
            yield video.container
    except FFmpegError as error:
        raise Unusable(f"damaged, or of a kind that FFmpeg cannot read ({error.strerror})") from error
    except OSError as error:
        if isinstance(error.__cause__, IndexError):
            raise Unusable("there is no picture in it, only sound") from error
        reason = error.strerror or "damaged, cut off, or of a kind that FFmpeg does not know"
        raise Unusable(f"cannot be read as a video: {reason}") from error


def frames_from(path: Path, since: Fraction) -> Iterator[TimedFrame]:
    """The frames of a clip, from one that is not later than `since` on, if there is any; at ever later times.

    Raises Unusable where the clip is damaged.
    """
    frames = _frames(path, since)
    first = next(frames, None)
    if first is None or first[0] > since:  # the file cannot be searched, or was not searched right
        frames.close()
        yield from _frames(path)
        return
    yield first
    yield from frames


def _frames(path: Path, since: Fraction | None = None) -> Generator[TimedFrame, None, None]:
    with opened(path) as container:
        stream = container.streams.video[0]
        if since is not None and stream.time_base is not None:
            try:
                container.seek(int(since / stream.time_base), stream=stream)
            except FFmpegError:
                return
        last = None
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise Unusable(f"damaged at {float(frame.time or 0):.1f} s")
            if frame.pts is None or frame.time_base is None:
                continue
            time = frame.pts * frame.time_base
            if last is None or time > last:
                last = time
                yield time, frame


def pixels_of(frame: VideoFrame, shape: Fraction) -> np.ndarray:
    """A frame (H, W, 3 or with transparency 4) uint8, upright and with square pixels.

    shape: width to height of a pixel.
    """
    see_through = any(component.is_alpha for component in frame.format.components)
    square = frame.reformat(width=round(frame.width * shape)) if shape != 1 else frame
    return np.rot90(square.to_ndarray(format="rgba" if see_through else "rgb24"), frame.rotation // 90)
