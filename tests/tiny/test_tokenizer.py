"""The tiny tokenizer: T5's numbers, any text, loaded by transformers from its folder."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tiny.captions import caption, training_scene
from tiny.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    make_tokenizer(folder, captions=2000)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def test_numbers_are_those_of_t5(tokenizer: PreTrainedTokenizerBase):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("").input_ids == [1]
    padded = tokenizer("a red box", padding="max_length", max_length=8)
    assert padded["input_ids"][3:] == [1, 0, 0, 0, 0] and padded["attention_mask"] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_captions_are_whole_words(tokenizer: PreTrainedTokenizerBase):
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = caption(training_scene(rng), rng)
        ids = tokenizer(text).input_ids
        assert 2 not in ids and len(ids) <= 20
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.lower()


def test_case_and_spaces_do_not_matter(tokenizer: PreTrainedTokenizerBase):
    assert tokenizer("  A RED\n\tcircle ").input_ids == tokenizer("a red circle").input_ids


@pytest.mark.parametrize("text", ["süß 猫 🎉", "<pad> </s>", "x" * 3000, "\x00\ufeff", "3.5 % (approx.) [a|b] {c}"])
def test_any_text_is_tolerated(tokenizer: PreTrainedTokenizerBase, text: str):
    ids = tokenizer(text, truncation=True, max_length=256).input_ids
    assert 1 <= len(ids) <= 256 and ids[-1] == 1
    assert max(ids) < len(tokenizer)


def test_files_are_small_and_repeatable(folder: Path, tmp_path: Path):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 100_000
    make_tokenizer(tmp_path, captions=2000)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
