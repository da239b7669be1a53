"""A model of test size with random weights, and the command line run on it."""

import json
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import T5Config, T5EncoderModel

from mochi.cli import main as cli
from mochi.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder, Encoder

SMALL = ["--width=32", "--height=32", "--frames=7", "--steps=3"]
DIT = DiTConfig(depth=2, num_heads=2, hidden_x=32, hidden_y=16, mlp_x=32, mlp_y=32, text_width=32, caption_heads=8)
DECODER = DecoderConfig(base=4, multipliers=(1, 1, 1, 2), res_blocks=(1, 1, 1, 1, 1), groups=2)

ENCODER = EncoderConfig(
    base=4,
    multipliers=(1, 1, 1, 2),
    res_blocks=(1,) * 5,
    groups=2,
    attention=(False,) * 4 + (True,),
    attention_head_dim=4,
)
HINTS = {"dit": {"caption_heads": 8}, "decoder": {"groups": 2}, "encoder": {"groups": 2, "attention_head_dim": 4}}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory in the published layout."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    networks = {"dit": AsymmDiT(DIT), "decoder": Decoder(DECODER), "encoder": Encoder(ENCODER)}
    for name, network in networks.items():
        weights = {key: torch.randn_like(value) * 0.2 for key, value in network.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors", metadata={"config": json.dumps(HINTS[name])})
    letters = [(letter, -3.0) for letter in "▁" + string.ascii_lowercase]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    sizes = {"vocab_size": len(pieces), "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes)).save_pretrained(folder / "t5")
    tokenizer.save(str(folder / "t5" / "tokenizer.json"))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(model_dir: Path, here: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; returns the exit code and what it printed (stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["generate", "--model-dir", str(model_dir), "--device=cpu", *SMALL, *arguments])
        return code, *capsys.readouterr()

    return run
