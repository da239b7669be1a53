"""Token ids: equal to transformers', padded, cut, and nothing at all for an empty prompt."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, T5Tokenizer

from mochi.errors import CheckpointError, MochiError
from mochi.text import PromptTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789.,!?\n\té"


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
@given(text=st.text(LETTERS, max_size=60))
def test_equals_transformers(kind: str, text: str, folder: Path, spiece: Path) -> None:
    ours = PromptTokenizer(folder if kind == "fast" else spiece, length=24)
    ids, mask, lost = ours(text)
    reference = AutoTokenizer.from_pretrained(folder)
    if not text.strip():
        assert not mask.any() and not ids.any()
        return
    expected = reference(text, truncation=True, padding="max_length", max_length=24)
    assert ids.tolist() == expected.input_ids
    assert mask.tolist() == [bool(m) for m in expected.attention_mask]
    assert lost == max(0, len(reference(text).input_ids) - 24)


def peer(kind: str, folder: Path, spiece: Path) -> T5Tokenizer:
    """transformers' own tokenizer of the same pieces; of sentencepiece's the sentinels are behind, as published."""
    if kind == "fast":
        return AutoTokenizer.from_pretrained(folder)
    slow = SentencePieceProcessor(model_file=str(spiece))
    pieces = [(slow.id_to_piece(i), slow.get_score(i)) for i in range(slow.get_piece_size())]
    return T5Tokenizer(vocab=pieces + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))])


SPECIAL = (
    "<pad>",
    "</s>",
    "<unk>",
    "<extra_id_0>",
    "<extra_id_99>",
    "<extra_id_100>",
    "red",
    "a circle",
    " ",
    "</s",
    ">",
)


@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
@given(parts=st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=8))
@example(parts=["<pad>"])
@example(parts=["a ", "</s>", " red"])
@example(parts=["red", "<extra_id_0>", "red", "<pad>"])
def test_special_tokens_in_a_prompt(kind: str, parts: list[str], folder: Path, spiece: Path) -> None:
    """They are tokens wherever they stand, and the mask goes by position: only what is behind the end is padding."""
    text = "".join(parts)
    if not text.strip():
        return
    ids, mask, _ = PromptTokenizer(folder if kind == "fast" else spiece, length=24)(text)
    expected = peer(kind, folder, spiece)(text, truncation=True, padding="max_length", max_length=24)
    assert ids.tolist() == expected.input_ids
    assert mask.tolist() == [bool(m) for m in expected.attention_mask]


@pytest.mark.parametrize("text", ["a red \ud83d circle", "\udfff", "caf\udce9"])
def test_half_a_character_is_refused(text: str, folder: Path, spiece: Path) -> None:
    for source in (folder, spiece):
        with pytest.raises(MochiError, match="half of a character"):
            PromptTokenizer(source)(text)


@pytest.mark.parametrize("text", ["\0", "red\0circle", "\x7f \x01", "\U0001f600 red"])
def test_odd_characters_are_read(text: str, folder: Path, spiece: Path) -> None:
    for source in (folder, spiece):
        assert PromptTokenizer(source)(text).mask.any()


@pytest.mark.parametrize("text", ["", " ", "\n\t  "])
def test_empty_prompt_has_no_tokens(text: str, folder: Path) -> None:
    ids, mask, lost = PromptTokenizer(folder)(text)
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert ids.shape == mask.shape == (256,)
    assert not ids.any() and not mask.any() and lost == 0


def test_long_prompt_is_cut_with_a_warning(folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    ids, mask, lost = PromptTokenizer(folder)("red circle " * 200)
    assert lost > 0 and mask.all() and ids[-1] == 1
    assert f"last {lost} were cut" in warnings.text


def test_prompt_that_fits_exactly_is_whole(folder: Path, warnings: pytest.LogCaptureFixture) -> None:
    count = int(PromptTokenizer(folder)("a red circle").mask.sum())
    assert PromptTokenizer(folder, count)("a red circle").lost == 0
    assert not warnings.records
    assert PromptTokenizer(folder, count - 1)("a red circle").lost == 1


def test_not_a_tokenizer(tmp_path: Path, folder: Path, spiece: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no T5 tokenizer"):
        PromptTokenizer(tmp_path)
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
            PromptTokenizer(tmp_path / name)
    text = (folder / "tokenizer.json").read_text().replace("<pad>", "<bos>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a T5 tokenizer"):
        PromptTokenizer(tmp_path)


def test_file_without_a_known_suffix_is_sentencepiece(tmp_path: Path, spiece: Path) -> None:
    shutil.copy(spiece, tmp_path / "vocabulary.model")
    assert PromptTokenizer(tmp_path / "vocabulary.model")("red").mask.sum() > 1
