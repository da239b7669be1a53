"""`python -m mochi generate --lora FILE=STRENGTH`: on one device and over ranks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mochi import pipeline
from mochi.cli import main as cli
from tests.cli.conftest import SMALL

UP, DOWN = torch.randn(96, 2, generator=torch.manual_seed(0)), torch.randn(2, 32, generator=torch.manual_seed(1))


@pytest.fixture
def lora(here: Path) -> str:
    """A file in the working directory, with a sign in its name."""
    state = {"blocks.0.attn.qkv_x.lora_A": DOWN, "blocks.0.attn.qkv_x.lora_B": UP}
    state |= {f"transformer_blocks.1.attn1.to_k.lora_{x}.weight": t for x, t in (("A", DOWN), ("B", UP[:32]))}
    save_file({name: t.clone() for name, t in state.items()}, "my=lora.safetensors")
    return "my=lora.safetensors"


@pytest.fixture
def merged(here: Path, model_dir: Path) -> Path:
    """The model with half of the LoRA in its weights."""
    folder = here / "merged"
    folder.mkdir()
    for file in model_dir.iterdir():
        (folder / file.name).symlink_to(file)
    state = load_file(folder / "dit.safetensors")
    state["blocks.0.attn.qkv_x.weight"] += 0.5 * UP @ DOWN
    state["blocks.1.attn.qkv_x.weight"][32:64] += 0.5 * UP[:32] @ DOWN
    (folder / "dit.safetensors").unlink()
    save_file(state, folder / "dit.safetensors", metadata={"config": json.dumps({"caption_heads": 8})})
    return folder


def video(model: Path, *arguments: str) -> np.ndarray:
    command = ["generate", "red", "--model-dir", str(model), *SMALL, "--seed=1", "--output=clip.png", *arguments]
    shutil.rmtree("clip", ignore_errors=True)
    assert cli.main(command) == 0
    return np.stack([np.asarray(Image.open(file), dtype=int) for file in sorted(Path("clip").glob("*.png"))])


def test_equals_merged_weights(model_dir, merged, lora):
    expected, plain = video(merged), video(model_dir)
    assert np.abs(expected - plain).max() > 5
    assert np.abs(video(model_dir, f"--lora={lora}=0.5") - expected).max() <= 1
    assert np.abs(video(model_dir, f"--lora={lora}", f"--lora={lora}=-0.5") - expected).max() <= 1
    assert json.loads(Path("clip.json").read_text())["run"]["loras"] == [lora, f"{lora}=-0.5"]
    assert np.array_equal(video(model_dir, "--lora", f"{lora}=0"), plain)


@pytest.mark.skipif(torch.cuda.is_available(), reason="ranks on the CPU")
def test_over_two_ranks(model_dir, merged, lora):
    expected = video(merged)
    assert np.abs(video(model_dir, f"--lora={lora}=0.5", "--gpus=2", "--weights=sharded") - expected).max() <= 1


BAD = {
    "'much' is no strength": "{}=much",
    "'nan' is no strength": "{}=nan",
    "absent.safetensors: there is no such file": "absent.safetensors=1",
    "plain.safetensors: not a LoRA": "plain.safetensors",
    "wrong.safetensors: a LoRA for a model of other sizes": "wrong.safetensors",
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_end_before_anything_is_loaded(run, here, lora, message, monkeypatch):
    save_file({"a": UP}, "plain.safetensors")
    save_file({"t5_yproj.lora_A": DOWN, "t5_yproj.lora_B": UP}, "wrong.safetensors")
    monkeypatch.setattr(pipeline, "load_pipeline", lambda *_: pytest.fail("weights were read"))
    code, out, err = run("red", "--lora", BAD[message].format(lora))
    assert code == 2 and not out and err.count("\n") == 1
    assert re.search(message, err), err
