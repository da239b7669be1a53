"""Texts that others wrote into files, for a terminal."""

from collections.abc import Mapping
from typing import Any

LONG = 400
TEXTS = ("prompt", "negative")
"""Settings that have a line of their own."""


def shown(text: str) -> str:
    """A text without what would move a cursor or change colours, and not too much of it."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return plain if len(plain) <= LONG else f"{plain[:LONG]}..."


def setting_in_words(name: str, value: Any) -> str:
    return f"{shown(name)} {shown(repr(value) if name in TEXTS or name == 'text' else str(value))}"


def settings_in_lines(settings: Mapping[str, Any]) -> list[str]:
    """Settings for people, without those that say nothing."""
    said = {name: value for name, value in settings.items() if value not in (None, "", [], {})}
    lines = [f"    {name}: {shown(str(said.pop(name)))}" for name in TEXTS if name in said]
    if said:
        lines.append("    " + ", ".join(setting_in_words(name, value) for name, value in said.items()))
    return lines
