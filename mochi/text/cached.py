"""A T5 v1.1 XXL, or its tokenizer, that programs have fetched into the hub's cache. Nothing is fetched here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..hub.cache import cache_folder, cached
from ..hub.catalog import GENMO, T5_FP8, T5_FP16, T5_Q4
from .layout import find_tokenizer, open_text_encoder
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


def tokenizer_for(encoder: Checkpoint) -> Path:
    """The folder of an encoder's tokenizer: where `find_tokenizer` finds it, or else in the cache.

    Raises CheckpointError where there is none.
    """
    try:
        return find_tokenizer(encoder.path)
    except CheckpointError as error:
        found = next(_tokenizers(), None)
        if found is None:
            raise CheckpointError(f"{error}; or `hf download {GOOGLE} spiece.model` gets it") from error
        return found


def _tokenizers() -> Iterator[Path]:
    for repository in TOKENIZERS:
        folder = cached(repository)
        if folder is not None:
            yield from (place for place in (folder, folder / "tokenizer") if has_tokenizer(place))
