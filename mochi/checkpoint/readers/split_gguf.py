"""GGUF, in one file or in several, as llama.cpp's gguf-split writes them: `NAME-00001-of-00003.gguf`."""

from pathlib import Path

from ...errors import CheckpointError, first_few
from .contents import Contents
from .gguf import Opened, contents, open_one
from .shards import Shard


def open_gguf(path: Path) -> Contents:
    """A file; or all files of a checkpoint by any one of them.

    Raises CheckpointError, naming the file that is missing, damaged or of another checkpoint.
    """
    chosen = open_one(path)
    number, count = _place(chosen)
    if count == 1:
        return contents([chosen])
    files = [chosen if file == path else open_one(file) for file in _files(path, number, count)]
    for at, file in enumerate(files, 1):
        if _place(file) != (at, count):
            raise CheckpointError(f"{file.path}: not part {at} of {count}, as its name says; download it again")
    found, total = contents(files), files[0].fields.get("split.tensors.count")
    if total not in (None, len(found.tensors)):
        raise CheckpointError(
            f"{path}: its {count} parts have {len(found.tensors)} tensors, but should have {total}; they are not of "
            "one model, download them again"
        )
    return found


def _place(file: Opened) -> tuple[int, int]:
    """Which part a file says it is, from 1, and of how many. Files count from 0."""
    number, count = file.fields.get("split.no", 0), file.fields.get("split.count", 1)
    if not isinstance(number, int) or not isinstance(count, int) or not 0 <= number < max(1, count):
        raise CheckpointError(f"{file.path}: says that it is part {number} of {count}, from 0; download it again")
    return number + 1, max(1, count)


def _files(path: Path, number: int, count: int) -> list[Path]:
    """All files of the checkpoint, in order, by the part that was chosen."""
    shard = Shard.of(path.name)
    if shard is None or (shard.number, shard.total) != (number, count):
        named = Shard("NAME", number, count, ".gguf").name(number)
        raise CheckpointError(
            f"{path}: part {number} of {count} of a split GGUF file; put all parts into one folder and name this one "
            f"{named}, or join them with gguf-split --merge"
        )
    files = [path.with_name(shard.name(each)) for each in range(1, count + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{path}: part {number} of {count} of a split GGUF file, but {first_few(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it; download all {count} parts into one folder"
        )
    return files
