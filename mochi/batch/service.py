"""The service of a worker: a whole pipeline, which makes one video after the other."""

import errno
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import Cancelled, MochiError
from ..images import GivenImage
from ..parallel.worker.loop import Context
from ..pipeline import Pipeline
from ..settings import GenerateSettings
from ..video import format_of, target_path
from .make import make_video, open_pipeline
from .requests import PART, FilePart, LoadPipeline, Made, MakeVideo
from .scratch import Scratch

FULL = (errno.ENOSPC, errno.EDQUOT)


class VideoMaker:
    """Answers LoadPipeline, and then MakeVideo. See Group and Context."""

    def __init__(self, context: Context):
        self._context, self._scratch = context, Scratch()
        self._pipeline: Pipeline | None = None

    def handle(self, request: LoadPipeline | MakeVideo) -> str | Made:
        """The answer to a request; see its class."""
        return self._load(request) if isinstance(request, LoadPipeline) else self._make(request)

    def _load(self, request: LoadPipeline) -> str:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None  # its memory is free before another is loaded
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
                made = make_video(self._pipeline, settings, output, request.quality, self._context.emit, cancelled)
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
