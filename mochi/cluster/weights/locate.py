"""Where a machine has the files that another one wants."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config import TINY_WEIGHTS
from ...hub.catalog import readable
from .folders import named_folders, received_folder
from .hashes import Hashes, Report
from .wanted import WantedFile


@dataclass(frozen=True)
class Located:
    """What a machine has of the wanted files.

    Attributes:
        files: that are wanted.
        found: the path on this machine, by the wanted path. Content is equal there, to the bit.
        missing: what is there instead, in words that go on behind the path, by the wanted path.
        searched: the folders that a person named on this machine; one that is not there says so.
    """

    files: tuple[WantedFile, ...]
    found: Mapping[str, str]
    missing: Mapping[str, str]
    searched: tuple[str, ...] = ()

    @property
    def lacking(self) -> tuple[WantedFile, ...]:
        """The files that would have to be sent, each content once."""
        return tuple({file.sha256: file for file in self.files if file.path in self.missing}.values())


def locate(
    wanted: Sequence[WantedFile],
    folders: Sequence[str | Path] = (),
    hashes: Hashes | None = None,
    report: Report | None = None,
    received: Path | None = None,
) -> Located:
    """Look for files on this machine: at their own paths; then, whatever their names, below the folders that are given
    or named by MOCHI_WEIGHTS, and among weights that were sent before.

    Args:
        hashes: that are remembered; by default in the user's cache.
        report: hears how far files have been hashed. Only those of the right size are.
        received: where sent weights are; by default in the user's cache.
    """
    hashes = hashes or Hashes()
    named = [*map(Path, folders), *named_folders()]
    found, missing = {}, {}
    for file in wanted:
        flaw = _flaw(file, Path(file.path), hashes, report)
        if flaw is None:
            found[file.path] = file.path
        else:
            missing[file.path] = flaw
    for places in (named, _own(received)):
        lacking = [file for file in wanted if file.path in missing]
        candidates = list(_candidates(places, lacking))
        for file in lacking:
            elsewhere, near = _search(file, candidates, hashes, report)
            if elsewhere is not None:
                found[file.path] = elsewhere
                del missing[file.path]
            elif places is named:
                missing[file.path] = "; ".join([missing[file.path], *near])
    searched = (str(path) if path.is_dir() else f"{path} (there is no such folder)" for path in dict.fromkeys(named))
    return Located(tuple(wanted), found, missing, tuple(searched))


def _own(received: Path | None) -> list[Path]:
    """The folders with weights that no person has named."""
    sent = received or received_folder()
    return [TINY_WEIGHTS] if sent is None else [sent, TINY_WEIGHTS]


def _search(
    file: WantedFile, candidates: Iterable[tuple[Path, int]], hashes: Hashes, report: Report | None
) -> tuple[str | None, list[str]]:
    """The path of the same content, if there is one; else what is wrong with files of that name, in words."""
    name, near = Path(file.path).name, []
    for path, size in sorted(candidates, key=lambda found: found[0].name != name):
        if path.name != name and size != file.nbytes:
            continue
        flaw = _flaw(file, path, hashes, report)
        if flaw is None:
            return str(path.absolute()), []
        if path.name == name and str(path) != file.path:
            near.append(f"{path} {flaw}")
    return None, near


def _candidates(folders: Iterable[Path], wanted: Sequence[WantedFile]) -> Iterator[tuple[Path, int]]:
    """The files below the folders that have a wanted size or name, with their sizes. Links to folders are followed."""
    sizes, names = {file.nbytes for file in wanted}, {Path(file.path).name for file in wanted}
    seen: set[str] = set()
    for folder in folders if wanted else ():
        for place, inner, files in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:
                inner.clear()
                continue
            seen.add(real)
            for name in files:
                if name.startswith(".") and name.endswith(".part"):  # still arriving
                    continue
                path = os.path.join(place, name)
                try:
                    size = os.stat(path).st_size
                except OSError:
                    continue
                if size in sizes or name in names:
                    yield Path(path), size


def _flaw(file: WantedFile, path: Path, hashes: Hashes, report: Report | None) -> str | None:
    """What is at a path in place of a file, in words; None where it is the same. Sizes are compared first."""
    try:
        if not path.is_file():
            return "is a folder there" if path.is_dir() else "is not there"
        size = path.stat().st_size
        if size != file.nbytes:
            has, wants = readable(size), readable(file.nbytes)
            return f"has {has}, not {wants}" if has != wants else f"has {size:,} bytes, not {file.nbytes:,}"
        same = hashes.sha256(path, report) == file.sha256
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if same else f"has its {readable(size)}, but another content"
