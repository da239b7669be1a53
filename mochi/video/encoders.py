"""One class for each video format. All take frames (H, W, 3) uint8, one at a time, and keep none."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from PIL.PngImagePlugin import PngInfo

from .paths import frame_name

BT709, BT601, LIMITED_RANGE = 1, 6, 1  # the numbers that video files use


@dataclass(frozen=True)
class Target:
    """The video file to write.

    Attributes:
        path: a file, or for PNG a folder that is not there yet.
        fps: frames a second.
        size: width and height in pixels.
        quality: 0 to 100.
        metadata: texts to embed.
    """

    path: Path
    fps: Fraction
    size: tuple[int, int]
    quality: int
    metadata: Mapping[str, str]


class Encoder(Protocol):
    def add(self, frame: np.ndarray) -> None: ...

    def finish(self) -> None:
        """Complete the file."""

    def abort(self) -> None:
        """Let go of the file, which will be deleted."""


class _Container:
    """The common part of the formats that FFmpeg writes."""

    def __init__(
        self, target: Target, format: str, codec: str, pixels: str, options: dict[str, str], flags: dict[str, str]
    ):
        self._container = av.open(str(target.path), mode="w", format=format, options=flags)
        stream = self._container.add_stream(codec, rate=target.fps, options=options)
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._stream.width, self._stream.height = target.size
        self._stream.pix_fmt = pixels

    def _encode(self, frames: Iterable[av.VideoFrame | None]) -> None:
        for frame in frames:
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._encode([None])
        self._container.close()

    def abort(self) -> None:
        with contextlib.suppress(Exception):  # the trailer of a file that will be deleted
            self._container.close()


class _YuvVideo(_Container):
    """8-bit 4:2:0, tagged, since players guess untagged colours from the size of the video.

    The matrix is BT.601's. What reads no tags takes it for that: older PyAV, and ComfyUI's Load Video with it.
    """

    def __init__(self, target: Target, format: str, codec: str, options: dict[str, str], flags: dict[str, str]):
        super().__init__(target, format, codec, "yuv420p", options, flags)
        width, height = target.size
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.bit_rate = 0  # the quality alone decides
        context = self._stream.codec_context
        context.color_primaries, context.color_trc = BT709, BT709  # those of sRGB, or next to it
        context.colorspace, context.color_range = BT601, LIMITED_RANGE

    def add(self, frame: np.ndarray) -> None:
        odd_rows, odd_columns = frame.shape[0] % 2, frame.shape[1] % 2
        if odd_rows or odd_columns:  # colour is stored for 2x2 pixels: repeat the last row or column
            frame = np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        yuv = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
        self._encode([yuv])


class Mp4(_YuvVideo):
    """H.264. The index and the metadata lie in front, where browsers and ComfyUI's editor look for them."""

    def __init__(self, target: Target):
        flags = {"movflags": "use_metadata_tags+faststart"}
        # Else x264 makes another file of the same frames on another processor, and even in the next run.
        options = {"crf": str(51 - target.quality / 2), "x264-params": "cpu-independent=1"}
        super().__init__(target, "mp4", "h264", options, flags)
        self._container.metadata.update(target.metadata)


class Webm(_YuvVideo):
    """VP9."""

    def __init__(self, target: Target):
        options = {"crf": str(round(63 - 0.6 * target.quality)), "row-mt": "1", "cpu-used": "3"}
        super().__init__(target, "webm", "libvpx-vp9", options, {})
        self._container.metadata.update({key: escape_braces(text) for key, text in target.metadata.items()})


def escape_braces(text: str) -> str:
    """The same JSON without braces inside its strings: ComfyUI's editor finds the end of webm metadata by counting."""
    return re.sub(r'"(?:\\.|[^"\\])*"', lambda m: m[0].replace("{", "\\u007b").replace("}", "\\u007d"), text)


@cache
def _palettes() -> Any:
    """imageio's writer, told the size of its frames: its filters would make them 640 x 480."""
    from imageio.plugins.pyav import PyAVPlugin  # not before a GIF is written: it is no part of ComfyUI's start

    class Palettes(PyAVPlugin):
        def begin(self, fps: Fraction, size: tuple[int, int]) -> None:
            self.init_video_stream("gif", fps=float(fps), pixel_format="pal8")
            assert isinstance(self._video_stream, VideoStream)
            self._video_stream.width, self._video_stream.height = size
            nodes = {
                "split": ("split", ""),
                "palette": ("palettegen", "stats_mode=single"),
                "use": ("paletteuse", "new=1"),
            }
            frames = [("video_in", "split", 0, 0), ("split", "use", 0, 0), ("use", "video_out", 0, 0)]
            self.set_video_filter(filter_graph=(nodes, [*frames, ("split", "palette", 1, 0), ("palette", "use", 0, 1)]))

    return Palettes


class Gif:
    """256 colours, chosen for each frame. `quality` has no effect; metadata becomes the file's comment."""

    def __init__(self, target: Target):
        self._target = target
        from imageio.v3 import imopen

        self._video: Any = imopen(target.path, "w", plugin=_palettes(), container="gif", extension=".gif")
        self._video.begin(target.fps, target.size)
        self._closed = False

    def add(self, frame: np.ndarray) -> None:
        self._video.write_frame(frame)

    def finish(self) -> None:
        self._close()
        if self._target.metadata:
            insert_gif_comment(self._target.path, json.dumps(dict(self._target.metadata)))

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._close()

    def _close(self) -> None:
        """Once: it collects garbage, which takes half a second beside torch."""
        if not self._closed:
            self._closed = True
            self._video.close()


def insert_gif_comment(path: Path, text: str) -> None:
    """Put a comment block after the header of a GIF file."""
    data, comment = path.read_bytes(), text.encode()
    flags = data[10]
    header = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)  # with the global palette
    blocks = (comment[i : i + 255] for i in range(0, len(comment), 255))
    extension = b"!\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    path.write_bytes(data[:header] + extension + data[header:])


class PngFolder:
    """A folder of frame_00001.png and so on, lossless, metadata in each as ComfyUI's Save Image writes it."""

    def __init__(self, target: Target):
        self._folder, self._count, self._text = target.path, 0, PngInfo()
        for key, value in target.metadata.items():
            self._text.add_text(key, value)
        self._folder.mkdir()

    def add(self, frame: np.ndarray) -> None:
        from imageio.v3 import imwrite

        self._count += 1
        path = self._folder / frame_name(self._count)
        imwrite(path, frame, plugin="pillow", is_batch=False, pnginfo=self._text, compress_level=4)

    def finish(self) -> None:
        """Every frame is a file of its own."""

    def abort(self) -> None:
        """No file is open."""


ENCODERS: dict[str, Callable[[Target], Encoder]] = {"mp4": Mp4, "webm": Webm, "gif": Gif, "png": PngFolder}
