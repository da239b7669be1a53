"""A T5 v1.1 XXL, or its tokenizer, that programs have fetched into the hub's cache. Nothing is fetched here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..hub.cache import cache_folder, cached
from ..hub.catalog import GENMO, T5_FP8, T5_FP16, T5_Q4
from .layout import open_text_encoder
from .tokenizer import has_tokenizer

GOOGLE, CITY96 = "google/t5-v1_1-xxl", "city96/t5-v1_1-xxl-encoder-bf16"

ENCODERS = (
    (GOOGLE, ""),  # the one that published code names
    (GENMO, ""),
    (CITY96, ""),
    (T5_FP16.repository, T5_FP16.file),
    ("mcmonkey/google_t5-v1_1-xxl_encoderonly", "model.safetensors"),
    ("comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
    (T5_FP8.repository, T5_FP8.file),
    (T5_Q4.repository, T5_Q4.file),
)
"""Repositories with the encoder, and the file in each, or nothing where its folder is read. The best come first."""

TOKENIZERS = (GOOGLE, GENMO, CITY96, "mcmonkey/google_t5-v1_1-xxl_encoderonly")
"""Repositories with the tokenizer."""

ADVICE = (
    "`python -m mochi download --file t5xxl_fp16.safetensors --model-dir DIR` gets one, and `hf download "
    f"{GOOGLE} spiece.model` its tokenizer; --t5 PATH names one that lies elsewhere"
)
"""What to do where there is none."""


def cached_t5(fits: Callable[[Checkpoint], None]) -> tuple[Checkpoint, str]:
    """The best one in the cache, and its repository.

    fits: raises CheckpointError on one that cannot be used.

    Raises CheckpointError, saying why those that are there cannot be used.
    """
    unfit = []
    for repository, file in ENCODERS:
        folder = cached(repository)
        if folder is None or not (folder / file).exists():
            continue
        try:
            checkpoint = open_text_encoder(folder / file)
            fits(checkpoint)
        except CheckpointError as error:
            unfit.append(str(error))
        else:
            return checkpoint, repository
    reasons = f" ({'; '.join(unfit)})" if unfit else ""
    raise CheckpointError(f"nor in the hub's cache, {cache_folder()}{reasons}")


def cached_tokenizer() -> Path | None:
    """The folder of T5's tokenizer in the cache, if it is there."""
    folders = [folder for repository in TOKENIZERS if (folder := cached(repository)) is not None]
    places = (place for folder in folders for place in (folder, folder / "tokenizer"))
    return next(filter(has_tokenizer, places), None)
