"""Prompts against a list of words, phrases and regular expressions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import regex
from torch import Tensor

from ..errors import MochiError
from .fold import bare, fold, spaced, stands_alone
from .guard import Finding

PATIENCE = 1.0
"""Seconds for one expression and one prompt."""


@dataclass(frozen=True)
class WordList:
    """A list, checked: a word, a phrase or an expression in slashes a line; `#` begins a line that says nothing.

    Attributes:
        name: for messages.
        text: what is in the file.

    Raises MochiError that names the line.
    """

    name: str
    text: str = field(repr=False)

    def __post_init__(self) -> None:
        self.build()

    @classmethod
    def read(cls, path: Path) -> "WordList":
        """From a file in UTF-8."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MochiError(f"{path}: the list of words cannot be read ({error.strerror})") from error
        try:
            return cls(str(path), data.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise MochiError(f"{path}, line {line}: not UTF-8; save the list of words in that encoding") from error

    def build(self) -> "WordCheck":
        finders = []
        for number, line in enumerate(self.text.splitlines(), 1):
            entry = line.strip()
            if entry and not entry.startswith("#"):
                try:
                    finders.append((number, _finder(entry)))
                except MochiError as error:
                    raise MochiError(f"{self.name}, line {number}: {error}") from error
        if not finders:
            advice = "write a word, a phrase or an /expression/ a line"
            raise MochiError(f"{self.name}: there is nothing in the list; {advice}")
        return WordCheck(self.name, finders)


@dataclass(frozen=True)
class _Prompt:
    """A prompt in the forms in which it is looked through."""

    written: str
    folded: str
    words: str


Finder = Callable[[_Prompt], str | None]
"""What it has found in a prompt, for a person."""


class WordCheck:
    """See Safety. name: of the list. finders: with the numbers of their lines."""

    every = 0

    def __init__(self, name: str, finders: list[tuple[int, Finder]]):
        self._name, self._finders = name, finders

    def check_prompt(self, text: str) -> Finding | None:
        folded = spaced(fold(text))
        prompt = _Prompt(text, folded, bare(folded))
        for line, finder in self._finders:
            try:
                found = finder(prompt)
            except TimeoutError as error:
                raise MochiError(
                    f"{self._name}, line {line}: the expression takes more than {PATIENCE:g} s for this prompt, so "
                    "nothing is made: write it with fewer repetitions inside repetitions"
                ) from error
            if found is not None:
                return Finding(f"{found!r} (line {line})")
        return None

    def check_frames(self, frames: Tensor) -> None:
        """Frames have no words."""


def _finder(entry: str) -> Finder:
    if len(entry) > 1 and entry.startswith("/") and entry.endswith("/"):
        return _expression(entry[1:-1])
    if entry.startswith("/"):
        raise MochiError(f"{entry!r} begins like an expression and does not end like one: /.../, without flags behind")
    phrase = spaced(fold(entry))
    if not phrase:
        raise MochiError(f"{entry!r} has no character that can be seen")
    is_plain = phrase == bare(phrase)

    def find(prompt: _Prompt) -> str | None:
        text = prompt.words if is_plain else prompt.folded
        return entry if stands_alone(phrase, text) else None

    return find


def _expression(source: str) -> Finder:
    try:
        pattern = regex.compile(source, regex.IGNORECASE)
    except regex.error as error:
        raise MochiError(f"/{source}/ is no regular expression: {error}") from error
    if pattern.search(""):
        raise MochiError(f"/{source}/ is found in an empty text, and so would block every prompt")

    def find(prompt: _Prompt) -> str | None:
        for text in (prompt.written, normalize("NFC", prompt.written), prompt.folded):
            if found := pattern.search(text, timeout=PATIENCE, concurrent=True):
                return found[0]
        return None

    return find
