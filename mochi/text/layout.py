"""Where a text encoder's config, weights and tokenizer lie: one file, or a folder as Hugging Face lays it out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import CheckpointError
from .tokenizer import FAST, SENTENCEPIECE, has_tokenizer

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")


class TextEncoderFiles(NamedTuple):
    """folder: where the weights lie. config: None for a single file, whose sizes are inferred."""

    folder: Path
    config: Path | None
    weights: Path


def find_text_encoder(path: Path) -> TextEncoderFiles:
    """The config and weights of the text encoder `path`: a file, its folder, or the folder around `text_encoder`.

    Raises CheckpointError, saying what is missing.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if path.is_file():
        return TextEncoderFiles(path.parent, None, path)
    for folder in (path, path / "text_encoder"):
        if (folder / "config.json").is_file():
            return TextEncoderFiles(folder, folder / "config.json", _weight_file(folder))
    raise CheckpointError(f"{path}: not a text encoder's folder, it has no config.json, nor text_encoder/config.json")


def find_tokenizer(path: Path, folder: Path) -> Path:
    """The folder of the tokenizer that lies in, below or beside `folder`, where the weights of `path` are."""
    for candidate in (folder, folder / "tokenizer", folder.parent / "tokenizer"):
        if has_tokenizer(candidate):
            return candidate
    raise CheckpointError(
        f"{path}: no tokenizer was found for it; put T5's {FAST} or {SENTENCEPIECE} into {folder / 'tokenizer'}"
    )


def _weight_file(folder: Path) -> Path:
    """The safetensors file of a folder: model.safetensors, else the index of several, else the only one."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return whole
    if indices := sorted(folder.glob("*.safetensors.index*.json")):
        return min(indices, key=lambda path: len(path.name))
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(path.name for path in files[:4])
        raise CheckpointError(f"{folder}: several weight files ({names}) and no index; choose one of them")
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise CheckpointError(
            f"{folder}: its weights are only there as a pickle, which could run code and is never loaded; "
            "download or convert to model.safetensors"
        )
    raise CheckpointError(f"{folder}: there are no weights (*.safetensors) in it")
