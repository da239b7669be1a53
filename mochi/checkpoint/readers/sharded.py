"""Safetensors files: one, or a checkpoint that an index spreads over several, as Hugging Face's libraries write it."""

import json
from pathlib import Path

from ...errors import CheckpointError, first_few
from ..lazy import LazyTensors
from .contents import Contents
from .safetensors_file import open_one
from .shards import Shard


def open_safetensors(path: Path) -> Contents:
    """A file; or all files of a checkpoint, by its index or any one of them.

    Raises CheckpointError, naming the file that is missing or wrong.
    """
    index = index_of(path)
    return open_one(path) if index is None else _open_all(index)


def index_of(path: Path) -> Path | None:
    """The index of a checkpoint in several files, by itself or any one of them; None for the path of one file alone.

    Raises CheckpointError where the index is not there.
    """
    if path.suffix == ".json":
        return path
    shard = Shard.of(path.name)
    if shard is None:
        return None
    stem, _, variant = shard.stem.rpartition(".")
    names = (
        f"{shard.stem}.safetensors.index.json",
        f"{stem}.safetensors.index.{variant}.json",
    )  # the latter: diffusers
    index = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if index is None:
        raise CheckpointError(f"{path}: one of several parts, but {names[0]}, which lists them, is not beside it")
    return index


def _open_all(index: Path) -> Contents:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        wrong = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not an index of safetensors files ({error!r})") from error
    if wrong:
        raise CheckpointError(f"{index}: lists a file outside its folder ({wrong[0]})")
    tensors: LazyTensors = {}
    for name in names:
        part = index.parent / name
        if not part.is_file():
            raise CheckpointError(f"{part}: missing, but listed in {index.name}; download it again")
        found = open_one(part).tensors
        if twice := found.keys() & tensors.keys():
            raise CheckpointError(f"{part}: has tensors that another part has too ({first_few(twice)})")
        tensors |= found
    if missing := places.keys() - tensors.keys():
        raise CheckpointError(
            f"{index.parent}: {len(missing)} tensors of the index are in no file ({first_few(missing)})"
        )
    return Contents(tuple(index.parent / name for name in names), tensors, {})
