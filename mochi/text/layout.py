"""Where a text encoder's weights and its tokenizer lie: one file, or a folder as Hugging Face lays it out."""

import json
from pathlib import Path

from ..checkpoint import Checkpoint, Source
from ..errors import CheckpointError
from .tokenizer import FAST, SENTENCEPIECE, has_tokenizer


def open_text_encoder(source: Source) -> Checkpoint:
    """The checkpoint of a text encoder.

    source: its file, its folder with a config.json, or the folder around `text_encoder`.

    Raises CheckpointError, saying what is missing, or like Checkpoint.open.
    """
    if isinstance(source, Checkpoint) or not (path := Path(source)).is_dir():
        return Checkpoint.open(source)
    for folder in (path, path / "text_encoder"):
        if (folder / "config.json").is_file():
            return Checkpoint.open(folder)
    raise CheckpointError(f"{path}: not a text encoder's folder, it has no config.json, nor text_encoder/config.json")


def is_t5(folder: Path) -> bool:
    """Whether a folder's config.json describes a T5."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "t5"
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def find_tokenizer(path: Path) -> Path:
    """The folder of the tokenizer for a text encoder's file or folder: in it, below or beside it."""
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, folder / "tokenizer", folder.parent / "tokenizer"):
        if has_tokenizer(candidate):
            return candidate
    place = folder / "tokenizer"
    raise CheckpointError(
        f"{path}: no tokenizer was found for it; put T5's {FAST} or {SENTENCEPIECE} into {place}, as "
        f"`hf download google/t5-v1_1-xxl {SENTENCEPIECE} --local-dir {place}` does"
    )
