"""Writes a video as its frames come, under a temporary name until it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from av.error import FFmpegError

from ..errors import MochiError
from ..frames import to_bytes
from .encoders import ENCODERS, Encoder, Target
from .limits import check_video, exact_fps
from .metadata import embeddable
from .paths import check_writable, format_of, target_path, temporary_beside

DEFAULT_QUALITY = 70


class VideoWriter:
    """A video file that takes frames as they are decoded; a context manager.

    path: where the video will be, complete, when the `with` block ends; for "png" a folder. While it is
    written it has a hidden temporary name beside it; if anything raises, cancelling included, nothing stays.
    fps: frames a second. size: (width, height) in pixels.
    format: "mp4" (H.264), "webm" (VP9), "gif", "png"; by default the path's suffix decides.
    quality: 0 to 100, mapped to the encoder's constant rate factor: 51 - quality / 2 for H.264 and
    63 - 0.6 quality for VP9, so 70 looks lossless and each 12 more doubles the file. No effect on gif and png.
    metadata: texts to embed, as JSON: ComfyUI reads "prompt" and "workflow" back when the file is dropped
    on its canvas (not from a gif, where they are the file's comment).
    make_folder: whether the folder of `path` is made where it is not there.
    seal: is given the whole file, or folder, before it gets its name, and may change it in its place.

    Raises MochiError on settings that cannot be or that the format cannot hold, and when the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction,
        size: tuple[int, int],
        format: str | None = None,
        quality: int = DEFAULT_QUALITY,
        metadata: Mapping[str, str] | None = None,
        make_folder: bool = True,
        seal: Callable[[Path], None] | None = None,
    ):
        self.format = format or format_of(path)
        check_video(self.format, fps, size)
        if not 0 <= quality <= 100:
            raise MochiError(f"quality is {quality}, but must be between 0 and 100")
        check_writable(path, self.format)
        self.path = target_path(path, self.format)
        self.frames = 0
        self._make_folder, self._seal = make_folder, seal
        temporary = temporary_beside(self.path)
        self._target = Target(temporary, exact_fps(fps), size, quality, embeddable(metadata or {}))
        self._encoder: Encoder | None = None

    def __enter__(self) -> VideoWriter:
        try:
            with self._clear_errors():
                if self._make_folder:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._encoder = ENCODERS[self.format](self._target)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frames: torch.Tensor | np.ndarray) -> None:
        """Append frames (F, H, W, 3), any number: floats in [0, 1] (clamped) or uint8, on any device."""
        if self._encoder is None:
            raise RuntimeError("write() belongs inside the writer's with block")
        width, height = self._target.size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (height, width, 3):
            raise MochiError(f"frames have the shape {tuple(frames.shape)}, but must be (F, {height}, {width}, 3)")
        for frame in frames:
            with self._clear_errors():
                self._encoder.add(to_uint8(frame))
            self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._encoder is not None:
                self._finish(self._encoder)
        finally:
            self._discard()

    def _finish(self, encoder: Encoder) -> None:
        if not self.frames:
            raise MochiError(f"{self.path}: a video needs at least one frame")
        with self._clear_errors():
            encoder.finish()
            if self._seal is not None:
                self._seal(self._target.path)
            if self.path.is_dir():  # an empty one: anything else was refused
                self.path.rmdir()
            os.replace(self._target.path, self.path)

    def _discard(self) -> None:
        """Let go of the file; remove what is still under the temporary name.

        It raises nothing, so that the first error is the one that is told.
        """
        if self._encoder is not None:
            self._encoder.abort()
            self._encoder = None
        if os.path.isdir(self._target.path):
            shutil.rmtree(self._target.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self._target.path.unlink()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turns errors of the system into one line for people."""
        try:
            yield
        except (OSError, FFmpegError) as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if full else error.strerror or str(error)
            raise MochiError(f"{self.path}: the video could not be written: {reason}") from error


def to_uint8(frame: torch.Tensor | np.ndarray) -> np.ndarray:
    """One frame (H, W, 3), floats in [0, 1] or uint8 -> uint8 on the CPU, rounded."""
    pixels = torch.as_tensor(frame).detach()
    if pixels.is_floating_point():
        pixels = to_bytes(pixels)
    elif pixels.dtype != torch.uint8:
        raise MochiError(f"frames are {pixels.dtype}, but must be floats in [0, 1] or uint8")
    return np.ascontiguousarray(pixels.cpu().numpy())
