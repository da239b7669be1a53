"""Texts that are embedded in a video."""

import logging
import re
from collections.abc import Mapping

log = logging.getLogger(__name__)

KEY = re.compile(r"[!-<>-~]([ -<>-~]{0,77}[!-<>-~])?")
"""The names that every format takes: PNG's are the shortest, and FFmpeg writes `name=text`."""


def embeddable(metadata: Mapping[str, str]) -> dict[str, str]:
    """The texts as all formats can hold them.

    What no encoding can hold, and NUL, becomes an escape of JSON, which the texts are. A text whose name no format
    takes is left out, with a warning.
    """
    left_out = sorted(name for name in metadata if not KEY.fullmatch(name))
    if left_out:
        log.warning("Metadata of names that a video cannot hold is left out: %s", ", ".join(map(ascii, left_out)))
    return {name: _escaped(text) for name, text in metadata.items() if name not in left_out}


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
