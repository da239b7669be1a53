"""Errors meant to be read by the person who runs the model."""

from collections.abc import Iterable, Mapping
from typing import Any


class MochiError(ValueError):
    """A setting or an input that cannot work; the message says what to change."""


class CheckpointError(MochiError):
    """A weight file that cannot be used; the message names the file and what it seems to be."""


class Blocked(MochiError):
    """A prompt or a frame that a safety check does not let pass; the message says what was found.

    Attributes:
        facts: for the log, as JSON holds them: which check, what it found, and the settings of the video.
    """

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.facts = dict(facts or {})


class Cancelled(Exception):
    """The caller asked a run to stop; raised between two steps, nothing was written."""


class GroupError(Exception):
    """A rank of a group failed, and the group with it; the message names the rank, its device and what it was doing."""


def first_few(names: Iterable[str], count: int = 4) -> str:
    """Names for a message: the first few, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + more
