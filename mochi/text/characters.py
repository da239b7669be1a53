"""Texts from outside: what no encoding can hold is named, so that nothing fails on it later."""

import re

from ..errors import MochiError

HALF = re.compile("[\ud800-\udfff]")
"""A character outside Unicode's first plane is two of these in UTF-16. One alone is no character."""


def check_text(name: str, text: str) -> None:
    """Raise MochiError for a text with half of a character in it.

    JSON and command lines can bring one along: an emoji that was cut in two, or bytes in another encoding.
    """
    if half := HALF.search(text):
        raise MochiError(
            f"{name} has {half[0]!r} as character {half.start() + 1}: half of a character that was cut in two, or a "
            "byte in another encoding than UTF-8. Write it again."
        )
