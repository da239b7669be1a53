"""What a person wants checked: put together, and itself checked, where it is asked for; built where it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import MochiError, first_few
from ..video.paths import check_path
from .guard import Guard, Safety
from .images import Classifier, is_on_hub
from .plugins import Plugin, installed
from .words import WordList

KEYS = ("words", "images", "plugins", "log")


@dataclass(frozen=True)
class SafetySettings:
    """Checks of prompts and frames; the parts are checked as they are made. It can cross to another machine.

    Attributes:
        words: lists, with what is in them.
        images: classifiers, whose files must be on each machine.
        plugins: checks of other packages, which must be installed on each machine.
        log: of what is blocked; None: beside the video.
    """

    words: tuple[WordList, ...] = ()
    images: tuple[Classifier, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    log: Path | None = None

    @classmethod
    def of(cls, asked: Sequence[str], folder: Path | None = None) -> SafetySettings:
        """From what a person names: a list of words, a classifier, a .json file with both, or an installed check.

        folder: in which files are looked for, by default the current one. Raises MochiError.
        """
        found = cls()
        for what in asked:
            found = found.with_all_of(_read(what, folder or Path()))
        return found

    def with_all_of(self, other: SafetySettings) -> SafetySettings:
        return SafetySettings(
            self.words + other.words,
            self.images + other.images,
            self.plugins + other.plugins,
            other.log or self.log,
        )

    @property
    def any(self) -> bool:
        """Whether there is any check."""
        return bool(self.words or self.images or self.plugins)

    @property
    def of_frames(self) -> tuple[str, ...]:
        """What frames are checked for, in words: what a video was made with."""
        classifiers = (
            f"{each.name}: {', '.join(each.blocked().values())} from {each.threshold:g}, every {each.every}"
            for each in self.images
        )
        return *classifiers, *(each.name for each in self.plugins)

    def version(self) -> str | None:
        """A text that is another one where anything in the files is; None where nobody can tell: with plugins."""
        if self.plugins:
            return None
        files = (path.stat() for each in self.images for path in sorted(each.folder().iterdir()))
        return str([self, *(each.text for each in self.words), *((file.st_size, file.st_mtime_ns) for file in files)])

    def guard(self) -> Guard:
        """All checks. Loads classifiers, which takes a second. Raises MochiError where one cannot start."""
        classifiers: list[tuple[str, Safety]] = [(each.name, each.build()) for each in self.images]
        return Guard([*self._of_prompts(), *classifiers], self.log)

    def guard_of_prompts(self) -> Guard:
        """Those checks that look at prompts, for a process that makes no frames."""
        return Guard(self._of_prompts(), self.log)

    def _of_prompts(self) -> list[tuple[str, Safety]]:
        lists: list[tuple[str, Safety]] = [(Path(each.name).name, each.build()) for each in self.words]
        return lists + [(each.name, each.build()) for each in self.plugins]


def _read(what: str, folder: Path) -> SafetySettings:
    path = folder / what
    if not what or "\0" in what:
        raise MochiError(f"safety is {what!r}, but must be the name of a file, a folder or a check")
    if path.is_dir():
        return SafetySettings(images=(Classifier(str(path.absolute())),))
    if path.suffix.lower() == ".json":
        return _of_json(path)
    if path.is_file() or path.suffix.lower() == ".txt":
        return SafetySettings(words=(WordList.read(path),))
    if what in installed():
        return SafetySettings(plugins=(Plugin(what),))
    if is_on_hub(what):
        return SafetySettings(images=(Classifier(what),))
    raise MochiError(
        f"safety is {what!r}, but must be a list of words (.txt), settings (.json), the folder or owner/name of an "
        f"image classifier, or an installed check ({first_few(installed())})"
    )


def _of_json(path: Path) -> SafetySettings:
    """Paths in the file are relative to its folder."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MochiError(f"{path}: the settings cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MochiError(f"{path}: no JSON: {error}") from error
    try:
        return _of_values(_keys(data, KEYS, "it"), path.absolute().parent)
    except MochiError as error:
        raise MochiError(f"{path}: {error}") from error


def _of_values(values: Mapping[str, Any], folder: Path) -> SafetySettings:
    words = tuple(WordList.read(folder / name) for name in _texts(values.get("words", []), "words"))
    images = values.get("images", [])
    classifiers = tuple(_classifier(each, folder) for each in (images if isinstance(images, list) else [images]))
    plugins = _keys(values.get("plugins", {}), None, "plugins")
    checks = tuple(Plugin(name, _keys(options or {}, None, name)) for name, options in plugins.items())
    found = SafetySettings(words, classifiers, checks)
    if not found.any:
        raise MochiError(f"there is no check in it; it can have {', '.join(KEYS)}")
    if "log" not in values:
        return found
    if not isinstance(values["log"], str) or not values["log"]:
        raise MochiError(f"log is {values['log']!r}, but must be the name of a file")
    log = folder / values["log"]
    if log.is_dir():
        raise MochiError(f"log is {values['log']!r}, but there is a folder of that name")
    check_path(log, log)
    return replace(found, log=log)


def _classifier(value: Any, folder: Path) -> Classifier:
    known = [field.name for field in fields(Classifier)]
    chosen = dict(_keys(value, known, "images"))
    if not isinstance(chosen.get("model"), str) or not chosen["model"]:
        raise MochiError("images has no model, which must be the folder or the owner/name of a classifier")
    if (folder / chosen["model"]).is_dir() or not is_on_hub(chosen["model"]):
        chosen["model"] = str(folder / chosen["model"])
    if "labels" in chosen:
        chosen["labels"] = tuple(_texts(chosen["labels"], "labels"))
    return Classifier(**chosen)


def _texts(value: Any, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise MochiError(f"{name} is {value!r}, but must be a text, or a list of them")
    return texts


def _keys(value: Any, known: Sequence[str] | None, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MochiError(f"{name} is {type(value).__name__}, but must be an object of JSON")
    if known is not None and (unknown := value.keys() - set(known)):
        raise MochiError(f"{name} has {first_few(unknown)}, but can have {', '.join(known)}")
    return value
