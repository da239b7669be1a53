"""The names of weight files, and of those that are parts of one checkpoint: `NAME-00001-of-00003.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SAFETENSORS, GGUF = (".safetensors", ".sft"), (".gguf",)

PATTERN = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.gguf)", re.IGNORECASE)


class Shard(NamedTuple):
    """One of the files of a checkpoint, by its name.

    Attributes:
        stem: the name without the numbers.
        number: from 1.
        total: how many there are.
        suffix: with its dot.
    """

    stem: str
    number: int
    total: int
    suffix: str

    @classmethod
    def of(cls, name: str) -> Shard | None:
        """The parts of a file name; None where it is not that of a shard."""
        found = PATTERN.fullmatch(name)
        return None if found is None else cls(found[1], int(found[2]), int(found[3]), found[4])

    def name(self, number: int) -> str:
        """The file name of any shard of the same checkpoint."""
        return f"{self.stem}-{number:05d}-of-{self.total:05d}{self.suffix}"


def without_later_shards(names: Iterable[str]) -> list[str]:
    """File names or paths, of a checkpoint in several files only the first, if that is among them."""
    known = list(names)
    return [name for name in known if _first(name) in (None, name) or _first(name) not in known]


def weight_files(folder: Path, suffixes: tuple[str, ...] = (*SAFETENSORS, *GGUF)) -> list[Path]:
    """The weight files that lie in a folder, of a checkpoint in several only the first."""
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    return [folder / name for name in without_later_shards(names)]


def _first(name: str) -> str | None:
    """The name of the first shard of a checkpoint; None where the name is not that of a shard."""
    shard = Shard.of(name)
    return None if shard is None else shard.name(1)
