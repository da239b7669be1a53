"""Safetensors files: one, or a checkpoint that an index spreads over several, as Hugging Face's libraries write it."""

import json
import re
from pathlib import Path

from ...errors import CheckpointError, first_few
from ..lazy import LazyTensors
from .contents import Contents
from .safetensors_file import open_one

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")

SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")


def open_safetensors(path: Path) -> Contents:
    """A file; or all files of a checkpoint, by its folder, its index or any one of them.

    Raises CheckpointError, naming the file that is missing or wrong.
    """
    index = _index_of(path)
    return open_one(_only_file(path)) if index is None else _open_all(index)


def is_later_shard(name: str) -> bool:
    """Whether a file name is that of a checkpoint's second or later part, which a list need not show."""
    return bool(SHARD.fullmatch(name)) and "-00001-of-" not in name


def _index_of(path: Path) -> Path | None:
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors.index*.json"), key=lambda file: (len(file.name), file.name))
        return indices[0] if indices and not _whole_files(path) else None
    if path.suffix == ".json":
        return path
    shard = SHARD.fullmatch(path.name)
    if shard is None:
        return None
    stem, _, variant = shard[1].rpartition(".")
    names = (f"{shard[1]}.safetensors.index.json", f"{stem}.safetensors.index.{variant}.json")  # the latter: diffusers
    index = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if index is None:
        raise CheckpointError(f"{path}: one of several parts, but {names[0]}, which lists them, is not beside it")
    return index


def _whole_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.safetensors")) if not SHARD.fullmatch(file.name)]


def _only_file(path: Path) -> Path:
    """The file itself, or the one in a folder.

    Of several, it is the one with Hugging Face's name, or with the shortest: others are variants.
    """
    if not path.is_dir():
        return path
    files = sorted(_whole_files(path), key=_preference)
    if not files:
        pickles = any(file.suffix in PICKLES for file in path.iterdir())
        raise CheckpointError(
            f"{path}: its weights are only there as a pickle, which could run code and is never loaded; download or "
            "convert to safetensors"
            if pickles
            else f"{path}: there are no weights (*.safetensors) in this folder"
        )
    if len(files) > 1 and _preference(files[0]) == _preference(files[1]):
        names = first_few(file.name for file in files)
        raise CheckpointError(f"{path}: several weight files ({names}) and no index; choose one of them")
    return files[0]


def _preference(file: Path) -> tuple[bool, int]:
    return file.name != "model.safetensors", len(file.name)


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
