"""What crosses between the process that makes videos and the one with the page. Imports nothing that takes long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


@dataclass(frozen=True)
class Offer:
    """What the page offers.

    Attributes:
        model: its name.
        defaults: its settings where a person chooses nothing, by the names of GenerateSettings.
        takes_images: whether frames can be given.
        about_images: what becomes of them, in words.
        loras: those that can be chosen, each with its strength.
    """

    model: str
    defaults: Mapping[str, Any]
    takes_images: bool = False
    about_images: str = ""
    loras: Sequence[tuple[str, float]] = ()


class Phase(Enum):
    """How far a video is that somebody has asked for."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Video:
    """A video that is made. path: of the file. record: its settings, as JSON."""

    path: str
    record: str


@dataclass(frozen=True)
class View:
    """What a visitor sees.

    Attributes:
        version: another one where anything has changed.
        phase: of the visitor's last video; None before the first one.
        text: the same in words, for a person.
        done, total: steps or frames, where they are counted.
        picture: of the video as it is now, a JPEG; empty without one.
        videos: those that this visitor has made, the latest first.
        asked: the last settings that were asked for.
    """

    version: int = 0
    phase: Phase | None = None
    text: str = ""
    done: int = 0
    total: int = 0
    picture: bytes = field(default=b"", repr=False)
    videos: tuple[Video, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        return self.phase in (Phase.WAITING, Phase.WORKING)


class Counter(Protocol):
    """Where visitors ask for videos. Each has an id that nobody can guess."""

    def offer(self) -> Offer:
        """What there is."""
        ...

    def ask(self, visitor: str, asked: Mapping[str, Any]) -> str:
        """Ask for a video, with settings by the names of GenerateSettings, and `loras`, their strengths.

        Returns what is wrong with it, in words; nothing where it is queued.
        """
        ...

    def cancel(self, visitor: str) -> None:
        """A visitor does not want the video any more that is waiting or being made."""
        ...

    def view(self, visitor: str, version: int) -> View | None:
        """What a visitor sees; None where it is what is seen already."""
        ...


@dataclass(frozen=True)
class Serving:
    """How the page is served, and where its process finds the Counter.

    Attributes:
        address, key: of the Counter.
        output: the folder with the videos.
        host: what it listens on.
        port: None for the first one that is free.
        users: who may come in, names and passwords; everybody where there are none.
    """

    address: tuple[str, int]
    key: str
    output: str
    host: str
    port: int | None
    users: Sequence[tuple[str, str]]
