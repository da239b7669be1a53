"""Checks of other packages, by entry points of the group `mochi.safety`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import MochiError, first_few
from .guard import Safety

GROUP = "mochi.safety"


def installed() -> dict[str, EntryPoint]:
    """By their names."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@dataclass(frozen=True)
class Plugin:
    """A check of another package, which is installed here.

    Attributes:
        name: of its entry point: a callable that takes the options by their names, and returns a Safety.
        options: as JSON holds them.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in installed():
            raise MochiError(f"no safety check {self.name!r} is installed; there are: {first_few(installed())}")

    def build(self) -> Safety:
        try:
            check = installed()[self.name].load()(**self.options)
        except KeyError as error:
            raise MochiError(f"no safety check {self.name!r} is installed on this machine") from error
        except MochiError:
            raise
        except Exception as error:  # of somebody else's code
            raise MochiError(f"the safety check {self.name} cannot start: {type(error).__name__}: {error}") from error
        if not all(callable(getattr(check, method, None)) for method in ("check_prompt", "check_frames")):
            kind = type(check).__name__
            raise MochiError(f"the safety check {self.name} has no check_prompt and check_frames: {kind}")
        return check
