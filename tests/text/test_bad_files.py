"""Files that are no T5 encoder: each error names the file, what it seems to be and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi.errors import CheckpointError
from mochi.text import load_prompt_encoder

Q = "encoder.block.1.layer.0.SelfAttention.q.weight"


def fails(path: Path, *messages: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_prompt_encoder(path)
    assert str(path) in str(error.value)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("blocks.0.attn.qkv_x.weight", "a Mochi AsymmDiT"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a CLIP text encoder"),
        ("decoder.blocks.0.1.stack.0.weight", "a Mochi AsymmVAE"),
        ("blocks.0.lora_A.weight", "a LoRA"),
        ("something.weight", "no model that is known"),
    ],
)
def test_another_model(key: str, what: str, single_file: Path) -> None:
    save_file({key: torch.zeros(1)}, single_file)
    fails(single_file, "not a T5 text encoder", what, key, "t5xxl_fp16.safetensors")


def test_umt5_has_a_bias_in_every_block(tensors: dict, single_file: Path) -> None:
    surplus = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    save_file(tensors | {surplus: torch.zeros(16, 4)}, single_file)
    fails(single_file, "1 tensors do not belong there", surplus)


def test_missing_surplus_and_wrong_shape(tensors: dict, single_file: Path) -> None:
    save_file({k: v for k, v in tensors.items() if k != Q}, single_file)
    fails(single_file, "1 tensors are missing", Q)
    save_file({k: v for k, v in tensors.items() if "bias" not in k}, single_file)
    fails(single_file, "relative_attention_bias", "missing")
    save_file(tensors | {"encoder.extra": torch.zeros(1)}, single_file)
    fails(single_file, "1 tensors do not belong there", "encoder.extra")
    save_file(tensors | {Q: torch.zeros(3, 3)}, single_file)
    fails(single_file, Q, "[3, 3], expected [32, 32]")


@pytest.mark.parametrize("kept", [0, 4, 1000, -100])
def test_truncated(kept: int, single_file: Path) -> None:
    single_file.write_bytes(single_file.read_bytes()[:kept])
    fails(single_file, "cut short or corrupt")


def test_a_marker_alone_changes_nothing(tensors: dict, single_file: Path) -> None:
    expected, _ = load_prompt_encoder(single_file)("red")
    save_file(tensors | {"scaled_fp8": torch.zeros(2)}, single_file)
    assert load_prompt_encoder(single_file)("red")[0].equal(expected)


def test_integers(tensors: dict, single_file: Path) -> None:
    save_file(tensors | {Q: tensors[Q].to(torch.int8)}, single_file)
    fails(single_file, "not of floating point, nor packed in a known way", Q)


def test_other_file_formats(single_file: Path) -> None:
    for start, what in (
        (b"GGUF\3\0\0\0\5", "not a whole GGUF file"),
        (b"\x80\x02}q\0.", "pickle"),
        (b"version https://git-lfs", "LFS"),
    ):
        single_file.write_bytes(start + bytes(100))
        fails(single_file, what)


def test_nothing_there(tmp_path: Path) -> None:
    fails(tmp_path / "absent.safetensors", "no such file or folder")
    fails(tmp_path, "not a text encoder's folder")


def test_no_tokenizer(folder: Path, single_file: Path, tmp_path: Path) -> None:
    shutil.rmtree(single_file.parent / "tokenizer")
    fails(single_file, "no tokenizer was found", "spiece.model")
    assert load_prompt_encoder(single_file, tokenizer=folder)("red")[1].any()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    fails(tmp_path, "no tokenizer was found")


def test_tokenizer_of_a_larger_model(folder: Path, tensors: dict, single_file: Path) -> None:
    tensors["shared.weight"] = tensors["shared.weight"][:50].clone()
    save_file(tensors, single_file)
    fails(single_file, "do not belong together")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_pickles_are_never_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    fails(copy, "as a pickle", "never loaded")


def test_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    fails(copy, "no weights")


def test_several_files_without_index(copy: Path) -> None:
    shutil.copy(copy / "model.safetensors", copy / "a.safetensors")
    (copy / "model.safetensors").rename(copy / "b.safetensors")
    fails(copy, "several weight files", "a.safetensors")


def test_missing_shard_and_bad_index(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {Q: "model-00001-of-00002.safetensors"}}))
    fails(copy, "model-00001-of-00002.safetensors", "download")
    index.write_text(json.dumps({"weight_map": {Q: "../elsewhere/model.safetensors"}}))
    fails(copy, "outside its folder")
    index.write_text("{")
    fails(copy, "not an index of safetensors files")


def test_config_of_another_model(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "clip_text_model"}')
    fails(copy, "clip_text_model")
    (copy / "config.json").write_text("{")
    fails(copy, "not a readable model configuration")


@pytest.mark.parametrize("change", [{"d_model": -1}, {"d_model": "wide"}, {"num_heads": None}, {"num_layers": [2]}])
def test_sizes_that_cannot_be(copy: Path, change: dict) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    fails(copy)
