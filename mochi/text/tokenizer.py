"""T5's tokenizer, padded and cut to the length that Mochi was trained with.

T5 tokenizers are published in two kinds of file. Each is read by the library that defines it, so that token ids do not
depend on the version of transformers.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .characters import check_text

log = logging.getLogger(__name__)

FAST, SENTENCEPIECE = "tokenizer.json", "spiece.model"

SENTINELS = 100
"""T5's `<extra_id_0>` to `<extra_id_99>`, with which it was trained to fill gaps."""


class TokenizedPrompt(NamedTuple):
    """ids (length,) int64, 0 where padded; mask (length,) bool, true on tokens; lost: tokens that did not fit.

    The mask goes by position, as published: a `<pad>` that a prompt spells out is a token like any other.
    """

    ids: Tensor
    mask: Tensor
    lost: int


class PromptTokenizer:
    """Text to token ids: 256 of them, the last real one being the end-of-sequence token.

    `source` is a folder with `tokenizer.json` or `spiece.model`, or one of these files.
    Raises CheckpointError when there is none, or when it is not a T5 tokenizer.
    """

    def __init__(self, source: str | Path, length: int = 256):
        self.source = tokenizer_file(Path(source))
        self.length = length
        read = _read_fast if self.source.suffix == ".json" else _read_sentencepiece
        try:
            self._encode, self.pad, self.eos, self.vocab_size = read(self.source)
        except CheckpointError:
            raise
        except Exception as error:  # each library raises its own errors on a damaged file
            raise CheckpointError(f"{self.source}: cannot be read as a tokenizer ({error})") from error

    def __call__(self, text: str) -> TokenizedPrompt:
        """An empty or blank prompt has no tokens at all: ids 0, mask all false. A long one is cut, with a warning.

        Raises MochiError for a text that is not Unicode.
        """
        check_text("The prompt", text)
        ids = torch.zeros(self.length, dtype=torch.int64)
        mask = torch.zeros(self.length, dtype=torch.bool)
        if not text.strip():
            return TokenizedPrompt(ids, mask, 0)
        words = self._encode(text)
        lost = max(0, len(words) + 1 - self.length)
        if lost:
            log.warning(
                "The prompt is %d tokens long, but the model reads %d: the last %d were cut off.",
                len(words) + 1,
                self.length,
                lost,
            )
        kept = words[: self.length - 1] + [self.eos]
        ids.fill_(self.pad)
        ids[: len(kept)] = torch.tensor(kept)
        mask[: len(kept)] = True
        return TokenizedPrompt(ids, mask, lost)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (FAST, SENTENCEPIECE))


def tokenizer_file(source: Path) -> Path:
    """The tokenizer file that `source`, a file or a folder, stands for."""
    if source.is_file():
        return source
    for name in (FAST, SENTENCEPIECE):
        if (source / name).is_file():
            return source / name
    raise CheckpointError(f"{source}: there is no T5 tokenizer in it, neither {FAST} nor {SENTENCEPIECE}")


Reader = tuple[Callable[[str], list[int]], int, int, int]  # text to ids without the end, pad, end, size


def _read_fast(path: Path) -> Reader:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    pad, eos = tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")
    if pad is None or eos is None:
        raise CheckpointError(f"{path}: not a T5 tokenizer, it has no <pad> and </s> tokens")
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids, pad, eos, size


def _read_sentencepiece(path: Path) -> Reader:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    pad, eos, size = processor.pad_id(), processor.eos_id(), processor.get_piece_size()
    if pad < 0 or eos < 0:
        raise CheckpointError(f"{path}: not a T5 tokenizer, it has no padding and end-of-sequence tokens")
    has_own = processor.piece_to_id("<extra_id_0>") != processor.unk_id()
    # Else they are counted backwards, behind the pieces.
    sentinels = {} if has_own else {f"<extra_id_{SENTINELS - 1 - i}>": size + i for i in range(SENTINELS)}
    special = sentinels | {processor.id_to_piece(token): token for token in (pad, eos, processor.unk_id())}
    split = re.compile(f"({'|'.join(map(re.escape, special))})")

    def encode(text: str) -> list[int]:
        """The library takes special tokens for text, and so they are taken out first, as transformers does."""
        parts = split.split(text)
        return [token for part in parts for token in ([special[part]] if part in special else processor.encode(part))]

    return encode, pad, eos, size + len(sentinels)
