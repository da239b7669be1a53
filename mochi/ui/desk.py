"""The queue of the page: who has asked for which video, and how far each is. Used by many threads."""

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..batch.job import Job
from ..config import RunDefaults
from ..errors import MochiError
from ..settings import GenerateSettings
from .shown import Offer, Phase, Video, View

KEPT = 30
"""Videos of a visitor that the page still shows."""

FORGOTTEN = 24 * 3600.0
"""Seconds after which a visitor who does not look any more is forgotten."""


@dataclass(eq=False)
class Run:
    """A video that a visitor has asked for. strengths: of the LoRAs that there are."""

    visitor: str
    job: Job
    strengths: Sequence[float]
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Visitor:
    """What is known of a visitor. seen: when the page last looked."""

    view: View = field(default_factory=View)
    run: Run | None = None
    seen: float = field(default_factory=time.monotonic)


class Desk:
    """See Counter, whose methods the page calls; the others are for who makes the videos.

    Args:
        offer: what there is.
        defaults: of the model.
        output: the folder for videos.
        check: raises MochiError on a video that cannot be made.
    """

    def __init__(self, offer: Offer, defaults: RunDefaults, output: Path, check: Callable[[Job], None]):
        self._offer, self._defaults, self._output, self._check = offer, defaults, output, check
        self._visitors: dict[str, Visitor] = {}
        self._waiting: deque[Run] = deque()
        self._change = threading.Condition()
        self._version = 0

    # --- the page

    def offer(self) -> Offer:
        return self._offer

    def ask(self, visitor: str, asked: Mapping[str, Any]) -> str:
        try:
            run = Run(visitor, *self._read(asked))
        except MochiError as error:
            return str(error)
        with self._change:
            known = self._known(visitor)
            if known.run is not None:
                _remove_pictures(run.job)
                return "your last video is not made yet: wait for it, or cancel it"
            known.run = run
            self._waiting.append(run)
            self._show(visitor, View(phase=Phase.WAITING, asked=asked, videos=known.view.videos))
            self._tell_places()
            self._change.notify_all()
        return ""

    def cancel(self, visitor: str) -> None:
        with self._change:
            run = self._known(visitor).run
            if run is None:
                return
            run.cancelled.set()
            if run in self._waiting:
                self._waiting.remove(run)
                self._end(run, Phase.CANCELLED, "cancelled")
                self._tell_places()
            else:
                self._change_view(visitor, text="cancelling: the step that runs is the last one")

    def view(self, visitor: str, version: int) -> View | None:
        with self._change:
            known = self._visitors.get(visitor, Visitor())  # who only looks is not remembered
            known.seen = time.monotonic()
            return known.view if known.view.version != version else None

    # --- who makes the videos

    def next(self, seconds: float) -> Run | None:
        """The run that is next; None where nobody asks for one within so many seconds."""
        with self._change:
            self._change.wait_for(lambda: self._waiting, seconds)
            self._forget()
            if not self._waiting:
                return None
            run = self._waiting.popleft()
            self._change_view(run.visitor, phase=Phase.WORKING, text="starting")
            self._tell_places()
            return run

    def tell(self, run: Run, text: str, done: int = 0, total: int = 0, picture: bytes | None = None) -> None:
        """How far a run is. picture: None for the last one."""
        with self._change:
            if run.cancelled.is_set():
                return
            shown = {"picture": picture} if picture is not None else {}
            self._change_view(run.visitor, text=text, done=done, total=total, **shown)

    def made(self, run: Run) -> None:
        """The video and its record are there."""
        video = Video(str(run.job.video.absolute()), run.job.record.read_text(encoding="utf-8"))
        with self._change:
            videos = (video, *self._known(run.visitor).view.videos)[:KEPT]
            self._end(run, Phase.DONE, "done", videos=videos)

    def failed(self, run: Run, reason: str) -> None:
        """There will be no video."""
        with self._change:
            self._end(run, Phase.FAILED, reason)

    def was_cancelled(self, run: Run) -> None:
        """The visitor does not want it any more."""
        with self._change:
            self._end(run, Phase.CANCELLED, "cancelled")

    def close(self) -> None:
        """What is not made yet will not be."""
        with self._change:
            for known in self._visitors.values():
                if known.run is not None:
                    self._end(known.run, Phase.CANCELLED, "the page was closed")

    # --- with the lock

    def _known(self, visitor: str) -> Visitor:
        return self._visitors.setdefault(visitor, Visitor())

    def _show(self, visitor: str, view: View) -> None:
        self._version += 1
        self._known(visitor).view = replace(view, version=self._version)

    def _change_view(self, visitor: str, **changes: Any) -> None:
        self._show(visitor, replace(self._known(visitor).view, **changes))

    def _end(self, run: Run, phase: Phase, text: str, **changes: Any) -> None:
        self._known(run.visitor).run = None
        if phase is not Phase.DONE:
            _remove_pictures(run.job)
        self._change_view(run.visitor, phase=phase, text=text, done=0, total=0, picture=b"", **changes)

    def _tell_places(self) -> None:
        working = any(known.view.phase is Phase.WORKING for known in self._visitors.values())
        for before, run in enumerate(self._waiting, int(working)):
            videos = "1 video is" if before == 1 else f"{before} videos are"
            self._change_view(run.visitor, text=f"waiting: {videos} before yours" if before else "waiting")

    def _forget(self) -> None:
        """Let go of visitors who are gone. Their videos stay in the folder."""
        now = time.monotonic()
        gone = [name for name, known in self._visitors.items() if known.run is None and now - known.seen > FORGOTTEN]
        for name in gone:
            del self._visitors[name]

    # --- what is asked for

    def _read(self, asked: Mapping[str, Any]) -> tuple[Job, Sequence[float]]:
        """The job, checked, and the strengths of LoRAs. A picture is kept beside the video, as its record needs it."""
        strengths = asked.get("loras", ())
        chosen = {name: value for name, value in asked.items() if name != "loras"}
        settings = GenerateSettings.of(self._defaults, **chosen)
        name = f"mochi_{datetime.now():%Y%m%d_%H%M%S_%f}_{settings.seed}"
        job = Job(settings, self._output / f"{name}.mp4", seed_drawn=chosen.get("seed") is None)
        job.check_output()
        self._check(job)
        return replace(job, settings=replace(settings, images=self._kept(settings, name))), strengths

    def _kept(self, settings: GenerateSettings, name: str) -> tuple[Any, ...]:
        kept = []
        for number, image in enumerate(settings.images, 1):
            path = self._output / f"{name}_image_{number}{Path(image.file).suffix}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(image.file, path)
            except OSError as error:
                raise MochiError(f"{image.name}: could not be kept as {path}: {error.strerror}") from error
            kept.append(replace(image, file=str(path)))
        return tuple(kept)


def _remove_pictures(job: Job) -> None:
    """Those that were kept for a video which will not be."""
    for image in job.settings.images:
        with suppress(OSError):
            os.unlink(image.file)
