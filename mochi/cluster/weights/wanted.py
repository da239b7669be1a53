"""The files that another machine needs to load what is loaded here."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint import Checkpoint, Source
from ...checkpoint.readers import index_of
from ...config import TINY_WEIGHTS
from ...errors import CheckpointError, MochiError
from ...lora.file import settings_beside
from ...model_dir import ModelDir
from ...text.layout import find_tokenizer
from ...text.tokenizer import tokenizer_file
from .hashes import Hashes, Report


@dataclass(frozen=True)
class WantedFile:
    """A file of the machine that asks.

    Attributes:
        path: absolute, on that machine.
        nbytes: its size.
        sha256: of all of it, 64 hexadecimal digits.
        chosen: whether readers choose among the files of its folder, so that any other weights there would count.
    """

    path: str
    nbytes: int
    sha256: str
    chosen: bool = False


def files_of(
    source: Source, hashes: Hashes | None = None, report: Report | None = None, chosen: bool = False
) -> tuple[WantedFile, ...]:
    """The files that are read where a checkpoint is opened and loaded: its weights with their index; of a text encoder
    its folder's config.json and its tokenizer, where it has them; of a LoRA the settings beside it that count.

    Args:
        source: an open checkpoint; or what would open one, such as the path of a LoRA.
        hashes: that are remembered; by default in the user's cache.
        report: hears how far files have been hashed.
        chosen: whether it was chosen among the files of its folder, as it is where it was opened as a folder.

    Raises CheckpointError like Checkpoint.open, MochiError where a file cannot be read.
    """
    checkpoint = Checkpoint.open(source)
    files, index = [*checkpoint.files], index_of(checkpoint.path)
    files += [index] if index is not None else []
    with suppress(CheckpointError):  # no tokenizer, or no LoRA
        if "t5" in checkpoint.parts:
            files += [config] if (config := checkpoint.path / "config.json").is_file() else []
            files.append(tokenizer_file(find_tokenizer(checkpoint.path)))
        elif not checkpoint.parts:
            files += settings_beside(checkpoint)
    return wanted_files(files, hashes, report, chosen or checkpoint.path.is_dir())


def files_of_model(
    model: ModelDir, encoder: bool = False, hashes: Hashes | None = None, report: Report | None = None
) -> tuple[WantedFile, ...]:
    """The files that a pipeline of a model needs; none for the built-in one, which every machine has with the code.

    Args:
        encoder: whether pictures are given, which need the AsymmVAE encoder.
        hashes, report: see `files_of`.

    Raises CheckpointError where the model has no tokenizer, or no encoder, MochiError where a file cannot be read.
    """
    if is_built_in(model):
        return ()
    find_tokenizer(model.text_encoder.path)
    checkpoints = [model.dit, model.decoder, model.text_encoder, *([model.encoder] if encoder else [])]
    found = [file for each in checkpoints for file in files_of(each, hashes, report, chosen=True)]
    if (statistics := model.path / "latents.json").is_file():
        found += wanted_files([statistics], hashes, report, chosen=True)
    return tuple({file.path: file for file in found}.values())  # one file can hold several networks


def wanted_files(
    files: Iterable[Path], hashes: Hashes | None = None, report: Report | None = None, chosen: bool = False
) -> tuple[WantedFile, ...]:
    """These files, hashed. Arguments as for `files_of`; raises MochiError where one cannot be read."""
    hashes = hashes or Hashes()
    found = {}
    for file in files:
        path = absolute(file)
        try:
            found[path] = WantedFile(path, os.path.getsize(path), hashes.sha256(path, report), chosen)
        except OSError as error:
            raise MochiError(f"{file}: cannot be read to compare it on other machines: {error.strerror}") from error
    return tuple(found.values())


def is_built_in(model: ModelDir) -> bool:
    """Whether a model is the tiny one that comes with the code, which another machine has at a place of its own."""
    return model.path.resolve() == TINY_WEIGHTS.resolve()


def absolute(path: str | Path) -> str:
    """The path by which other machines know a file or folder of this one. Links are followed only where `..` does."""
    found = Path(path).absolute()
    return str(found.parent.resolve() / found.name if ".." in found.parts[:-1] else found)
