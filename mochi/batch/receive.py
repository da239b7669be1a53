"""One video from a worker to where it is asked for: hidden beside that place until it is whole."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import GroupError, MochiError
from ..parallel.owner.group import Group
from ..parallel.owner.work import finish
from ..parallel.protocol import Event, Progress
from ..settings import GenerateSettings
from ..video import format_of, target_path
from ..video.paths import temporary_beside
from .job import Job
from .record import fingerprint
from .requests import FilePart, Made, MakeVideo
from .scratch import Scratch

PATIENCE = 5.0
"""Seconds for a worker that is cancelled to stop writing."""


def receive(
    group: Group,
    job: Job,
    quality: int,
    shared: bool,
    hear: Callable[[Progress], None],
    check: Callable[[], None],
    seal: Callable[[Path], None] | None = None,
) -> Made:
    """Have a worker make a video, and put it in its place. Whatever is raised, nothing stays of it here.

    Args:
        shared: whether the worker writes the files itself, on a path that both machines see.
        hear: is told how far it is.
        check: is called all the while; what it raises cancels the work.
        seal: see VideoWriter. It is called here, since the key of who signs stays on this machine.

    Raises MochiError where the video cannot be made or written here, GroupError where the worker failed.
    """
    job.check_output()  # again: since the run began, hours may have passed
    with _hidden_folder(job) as folder:
        output = folder / f"video.{format_of(job.output)}"
        if shared:
            request = MakeVideo(_with_absolute_paths(job.settings), output, quality, shared)
        else:
            request = MakeVideo(job.settings, Path(output.name), quality, pictures=_pictures(job.settings))

        def on_event(event: Event) -> None:
            if isinstance(event.payload, FilePart):
                with _clear_errors(job):
                    _add(folder, event.payload)
            else:
                hear(event.payload)

        (answer,) = finish(group.stream(request), on_event, check)
        video = target_path(output, format_of(output))
        if shared and not video.exists():
            raise MochiError(f"{job.video}: the worker wrote it where it is not seen here; have results sent instead")
        made = answer.result
        with _clear_errors(job):
            if not fingerprint(video).items() <= made.facts.items():
                raise GroupError(f"{job.video}: what came is not what the worker sent.")
            if seal is not None:
                seal(video)
                made = replace(made, facts={**made.facts, **fingerprint(video)})
            if job.video.is_dir():  # an empty one: anything else was refused
                job.video.rmdir()
            os.replace(video, job.video)
    return made


@contextmanager
def _hidden_folder(job: Job) -> Iterator[Path]:
    """A folder beside a video to be, and no longer there in the end, however this process ends."""
    folder = temporary_beside(job.video.absolute())
    with _clear_errors(job):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(folder)
    try:
        yield folder
    finally:
        _remove(folder)
        scratch.close()


def _remove(folder: Path) -> None:
    """Remove a folder, into which a worker may write until it sees that it is cancelled."""
    end = time.monotonic() + PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _with_absolute_paths(settings: GenerateSettings) -> GenerateSettings:
    """The same pictures for a worker, which is in another folder."""
    images = [replace(image, file=os.path.abspath(image.file)) for image in settings.images]
    return replace(settings, images=tuple(images))


def _pictures(settings: GenerateSettings) -> dict[str, bytes]:
    """What is in the files of a video's pictures."""
    found = {}
    for image in settings.images:
        try:
            found[image.file] = Path(image.file).read_bytes()
        except OSError as error:
            raise MochiError(f"{image.name}: cannot be read ({error.strerror})") from error
    return found


def _add(folder: Path, part: FilePart) -> None:
    path = folder / part.name
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        if file.tell() != part.offset:
            raise GroupError(f"A part of {part.name} came at byte {part.offset}, where {file.tell()} are there.")
        file.write(part.data)


@contextmanager
def _clear_errors(job: Job) -> Iterator[None]:
    """Turns errors of this machine's files into one line for people."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise MochiError(f"{job.video}: the video could not be written: {reason}") from error
