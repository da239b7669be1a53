"""The service of a worker: a whole pipeline, which makes one video after the other."""

import errno
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import Cancelled, MochiError
from ..images import GivenImage
from ..parallel.protocol import Counted, Progress
from ..parallel.worker.loop import Context
from ..pipeline import Pipeline
from ..safety import Guard
from ..settings import GenerateSettings
from ..video import format_of, target_path
from .make import make_video, open_pipeline
from .requests import PART, FilePart, LoadPipeline, Made, MakeVideo, StillLoading
from .scratch import Scratch

WORD = 0.25
"""Seconds between two words on how far a video is."""

SIGN = 10.0
"""Seconds between two words on a model that is being loaded."""

LOADING = 3600.0
"""Seconds after which nothing more is said of it, so that the timeout counts."""

FULL = (errno.ENOSPC, errno.EDQUOT)


class VideoMaker:
    """Answers LoadPipeline, and then MakeVideo. See Group and Context."""

    def __init__(self, context: Context):
        self._context, self._scratch = context, Scratch()
        self._pipeline: Pipeline | None = None
        self._guard: Guard | None = None

    def handle(self, request: LoadPipeline | MakeVideo) -> str | Made:
        """The answer to a request; see its class."""
        if isinstance(request, MakeVideo):
            return self._make(request)
        self._guard = None if request.safety is None else request.safety.guard()
        return self._load(request)

    def _load(self, request: LoadPipeline) -> str:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None  # its memory is free before another is loaded
        if self._context.device.type == "cpu" and request.parallel is None:  # GPUs that it may see are not for it
            request = replace(request, device="cpu")
        with _telling(self._context.emit):
            self._pipeline = open_pipeline(request)
        return self._pipeline.attention

    def _make(self, request: MakeVideo) -> Made:
        if self._pipeline is None:
            raise MochiError("no model is loaded yet")
        with tempfile.TemporaryDirectory(dir=self._scratch.path) as own:
            settings, output = request.settings, request.output
            if not request.shared:
                settings, output = with_pictures(request, Path(own)), Path(own, request.output.name)
            elif not output.parent.is_dir():
                raise MochiError(f"{output.parent}: not seen on every machine, so that results must be sent instead")
            cancelled = self._context.asked_to_cancel
            try:
                tell = Sparing(self._context.emit)
                # A shared folder that is gone by now was removed since nobody waits for the video any more.
                make_folder = not request.shared
                how = request.quality, tell, cancelled, make_folder, self._guard
                made = make_video(self._pipeline, settings, output, *how)
            except MochiError as error:
                if not request.shared and getattr(error.__cause__, "errno", None) in FULL:
                    raise OSError(f"the temporary folder of the worker is full: {error}") from error  # not the job's
                raise
            if not request.shared:
                for part in parts_of(target_path(output, format_of(output))):
                    if cancelled():
                        raise Cancelled("cancelled while the video was sent")
                    self._context.emit(part)
        return made


class Sparing:
    """Tells how far a video is, not more often than a person can read: a word takes a millisecond of this machine."""

    def __init__(self, emit: Callable[[Counted], None]):
        self._emit, self._kind, self._at = emit, Counted, 0.0

    def __call__(self, told: Counted) -> None:
        now = time.monotonic()
        if type(told) is not self._kind or now - self._at >= WORD or told.done == told.total:
            self._kind, self._at = type(told), now
            self._emit(told)


@contextmanager
def _telling(emit: Callable[[Progress], None]) -> Iterator[None]:
    """Inside, tell now and then that a model is being loaded, which a slow disk can make longer than any timeout."""
    loaded, started = threading.Event(), time.monotonic()

    def tell() -> None:
        while not loaded.wait(SIGN) and time.monotonic() - started < LOADING:
            emit(StillLoading(round(time.monotonic() - started)))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loaded.set()
        thread.join()


def with_pictures(request: MakeVideo, folder: Path) -> GenerateSettings:
    """The settings of a request, with its pictures in files of this machine, in a folder."""
    files: dict[str, str] = {}
    for number, (name, data) in enumerate(request.pictures.items()):
        path = folder / f"picture-{number}{Path(name).suffix}"
        path.write_bytes(data)
        files[name] = str(path)
    images = [GivenImage(files[image.file], image.frame, image.strength) for image in request.settings.images]
    return replace(request.settings, images=tuple(images))


def parts_of(video: Path) -> Iterator[FilePart]:
    """The bytes of a video, a file or a folder of them."""
    for path in sorted(video.iterdir()) if video.is_dir() else [video]:
        name, offset = str(path.relative_to(video.parent)), 0
        with path.open("rb") as file:
            while data := file.read(PART):
                yield FilePart(name, offset, data)
                offset += len(data)
