"""Who follows a run of many videos: what the scheduler tells of it."""

from typing import Protocol

from ..errors import MochiError
from .job import Job
from .requests import Made
from .site import Place


class Watcher(Protocol):
    """Who follows a run. All but `draw` is called by many threads."""

    def doing(self, place: Place, what: str) -> None:
        """What the worker of a place does now; empty once there is none."""

    def trouble(self, place: Place, what: str) -> None:
        """Something went wrong in a place, which the run survives."""

    def made(self, job: Job, place: Place, made: Made) -> None:
        """A video and its record are there."""

    def failed(self, job: Job, error: MochiError) -> None:
        """A video will not be made."""

    def draw(self) -> None:
        """Show what has changed. Called some times a second, by the thread that runs it all."""
