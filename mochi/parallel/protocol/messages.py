"""What crosses the channel between the owner and a worker: requests, events and answers, and what carries them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from ...errors import MochiError

Result = TypeVar("Result")


@dataclass(frozen=True)
class FileMeeting:
    """Ranks of one machine meet through a file in a folder that only they can enter.

    Attributes:
        folder: the private one of the group.
        authkey: with which processes fetch each other's tensors.
    """

    folder: Path
    authkey: bytes


@dataclass(frozen=True)
class PortMeeting:
    """Ranks of several machines meet at a TCP port of rank 0.

    Attributes:
        host, port: of rank 0, as the others reach it.
        listener: descriptor of the socket that listens there, in the process of rank 0. None in the others.
    """

    host: str
    port: int
    listener: int | None


Meeting = FileMeeting | PortMeeting


@dataclass(frozen=True)
class Start:
    """The first message to a worker.

    Attributes:
        rank: its number.
        devices: of all ranks, by names that tell them apart.
        threads: of each rank.
        timeout: seconds after which an operation among ranks has failed.
        service: the class that handles requests, as (module or path of a file, class name).
        meeting: where the ranks meet.
        device: of this rank, as torch calls it.
        machines: the number of the machine of each rank; empty where all are on one.
    """

    rank: int
    devices: Sequence[str]
    threads: int
    timeout: float
    service: tuple[str, str]
    meeting: Meeting
    device: str
    machines: Sequence[int] = ()


class Ask(NamedTuple):
    """A request, and its number, which counts up from 1. END asks a worker to end."""

    number: int
    request: Any


END = Ask(0, None)


class Reply(NamedTuple):
    """A message of a rank about a request: Progress, and in the end Answer, Refused, Left or Failed.

    Number 0 is the start. Failed ends the group, the others do not.
    """

    number: int
    content: Any


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """The end of a request. seconds: that it took. memory: that the rank holds then, in bytes."""

    result: Result
    seconds: float
    memory: int


@dataclass(frozen=True)
class Refused:
    """The end of a request that cannot be answered as it is, for a reason that a person can mend."""

    error: MochiError


@dataclass(frozen=True)
class Left:
    """The end of a request that was cancelled."""


@dataclass(frozen=True)
class Failed:
    """The end of a rank that raised an error.

    Attributes:
        text: its type and first line.
        traceback: all of it.
        of_peer: whether it follows from another rank's end.
        out_of_memory: whether memory was not enough.
    """

    text: str
    traceback: str
    of_peer: bool
    out_of_memory: bool
