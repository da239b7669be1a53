"""A text encoder of test size with random weights, in every layout that it may come in."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import T5Config, T5EncoderModel

WORDS = (
    "a red green blue yellow white circle square triangle moves left right up down on the black background slowly "
    "video of cat dog running over grass under cloudy sky camera pans across old harbour at night with warm lights"
)
CONFIG = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 16,
    "feed_forward_proj": "gated-gelu",
}


@pytest.fixture(scope="session")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """spiece.model with T5's special tokens: 0 pads, 1 ends, 2 is unknown."""
    folder = tmp_path_factory.mktemp("spiece")
    text = folder / "text.txt"
    text.write_text("\n".join([WORDS, "abcdefghijklmnopqrstuvwxyz 0123456789 .,!?"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    return folder / "spiece.model"


@pytest.fixture(scope="session")
def folder(spiece: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: config.json, model.safetensors and a fast tokenizer."""
    folder = tmp_path_factory.mktemp("t5")
    fast_tokenizer(spiece).save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    T5EncoderModel(T5Config(vocab_size=400, **CONFIG)).save_pretrained(folder)
    return folder


def fast_tokenizer(spiece: Path) -> Tokenizer:
    """The same vocabulary in the other format, with T5's treatment of blanks and of the end."""
    slow = sentencepiece.SentencePieceProcessor(model_file=str(spiece))
    pieces = [(slow.id_to_piece(i), slow.get_score(i)) for i in range(slow.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=slow.unk_id()))
    tokenizer.add_special_tokens([slow.id_to_piece(i) for i in range(3)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", slow.eos_id())])
    return tokenizer


@pytest.fixture
def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The encoder's tensors under their published names."""
    model = T5EncoderModel.from_pretrained(folder)
    return {k: v.clone() for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}


@pytest.fixture
def single_file(tensors: dict[str, torch.Tensor], folder: Path, tmp_path: Path) -> Path:
    """A file as ComfyUI ships it, its tokenizer beside it."""
    save_file(tensors, tmp_path / "t5xxl_test.safetensors")
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(folder / "tokenizer.json", tmp_path / "tokenizer")
    return tmp_path / "t5xxl_test.safetensors"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog
