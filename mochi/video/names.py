"""What a file can be named on this system."""

import os
import re
import sys

ON_WINDOWS = sys.platform == "win32"
UNITS = "characters" if ON_WINDOWS else "bytes"

NAME_LENGTH = 255
"""The most units of a name, for systems that do not tell."""

WINDOWS_CHARACTERS = re.compile(r'[<>:"|?*\x00-\x1f]')
WINDOWS_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def flaw_of(name: str, most: int = NAME_LENGTH, windows: bool = ON_WINDOWS) -> str | None:
    """Why there cannot be a file or folder of that name, in words; None where there can.

    most: the length that the file system takes, as `length_of` counts.
    """
    if (found := forbidden_in(name, windows)) is not None:
        return f"has {found!r} in it, which no file name can hold here; choose another"
    if windows and name.endswith((".", " ")):
        return "ends in a dot or a blank, which Windows takes off; choose another"
    if windows and WINDOWS_DEVICES.fullmatch(name):
        return "is that of a device on Windows; choose another"
    if (length := length_of(name, windows)) > most:
        return f"is {length} {UNITS} long, and {most} are the most here; choose a shorter one"
    return None


def forbidden_in(name: str, windows: bool = ON_WINDOWS) -> str | None:
    """The first character that a file name cannot hold, None where there is none."""
    if windows and (found := WINDOWS_CHARACTERS.search(name)):
        return found[0]
    return next((character for character in name if not _can_be_stored(character, windows)), None)


def _can_be_stored(character: str, windows: bool) -> bool:
    # Names on Linux are bytes. For those that are no text, Python has halves of characters.
    if "\ud800" <= character <= "\udfff" and (windows or not sys.platform.startswith("linux")):
        return False
    try:
        return os.fsencode(character) != b"\0"
    except UnicodeEncodeError:
        return False


def length_of(text: str, windows: bool = ON_WINDOWS) -> int:
    """The length of a name or path as systems count: in UTF-16's units on Windows, in bytes elsewhere."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2 if windows else len(os.fsencode(text))


def made_storable(name: str, most: int, windows: bool = ON_WINDOWS) -> str:
    """A name like this one that a file can have: what cannot be stored becomes `_`, and the end is cut off."""
    while (found := forbidden_in(name, windows)) is not None:
        name = name.replace(found, "_")
    while length_of(name, windows) > most:
        name = name[:-1]
    if windows:
        name = name.rstrip(". ")
        name = name if WINDOWS_DEVICES.fullmatch(name) is None else f"_{name[1:]}"
    return name or "_"
