"""Signs videos with a person's own certificate."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Signer:
    """Signs videos with a certificate and its key, in one PEM file."""

    def __init__(self, identity: Path):
        self._identity = identity

    def seal(self, settings: Mapping[str, Any]) -> Callable[[Path], None]:
        """A function that signs a whole video in its place, as made with these settings; see VideoWriter."""
        raise NotImplementedError
