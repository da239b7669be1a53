"""Token ids: equal to transformers', padded, cut, and nothing at all for an empty prompt."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mochi.errors import CheckpointError
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
