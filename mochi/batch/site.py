"""Where workers can be: what the scheduler knows of machines, whatever engine reaches them."""

from collections.abc import Sequence
from typing import Protocol

from ..parallel.owner.group import Group


class Place(Protocol):
    """Room for one worker.

    Attributes:
        name: that no other place has.
        machine: that it is on.
    """

    @property
    def name(self) -> str: ...

    @property
    def machine(self) -> str: ...

    def start(self) -> Group:
        """A group of one rank with the service `requests.SERVICE`, within which a worker without progress is an error.

        Raises GroupError where it failed, MochiError where it cannot be until a person changes something.
        """
        ...


class Site(Protocol):
    """The machines that there are."""

    def places(self) -> Sequence[Place]:
        """Those that there are now, the best first. It is asked every few seconds: some may come, and some go."""
        ...
