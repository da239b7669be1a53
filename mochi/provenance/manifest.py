"""What is signed: that a model made it, which program, when, and with which settings."""

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .. import __version__

NAME = "mochi-parallel"

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a trained model has made."""

SETTINGS = f"{NAME}.generation"
"""The label of our own assertion. Labels begin with the name of whoever defines them."""

ACTIONS = "c2pa.actions.v2"


def manifest(settings: Mapping[str, Any], now: datetime | None = None) -> dict[str, Any]:
    """The manifest of a file, for the library's builder.

    The time is this machine's own: no authority is asked for it.
    """
    program = {"name": NAME, "version": __version__}
    when = (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
    created = {"action": "c2pa.created", "when": when, "softwareAgent": program, "digitalSourceType": SOURCE}
    return {
        "claim_generator_info": [program],
        "assertions": [
            {"label": ACTIONS, "data": {"actions": [created]}},
            # As JSON: the other form, CBOR, has no room for seeds from 2^63 on.
            {"label": SETTINGS, "kind": "Json", "data": {"program": f"{NAME} {__version__}", **_plain(settings)}},
        ],
    }


def _plain(value: Any) -> Any:
    """The same in objects, lists and texts. Numbers in a row become a text: the library reads them as bytes."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, (int, float)) for item in value):
            return ",".join(map(str, value))
        return [_plain(item) for item in value]
    # Halves of characters, which a file name may have, become escapes.
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
