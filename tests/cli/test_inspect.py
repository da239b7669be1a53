"""`python -m mochi inspect` says what a file is."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.cli import main as cli
from mochi.config import TINY_WEIGHTS


@pytest.fixture
def inspect(capsys):
    def run(*arguments) -> tuple[int, str, str]:
        code = cli.main(["inspect", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_says_what_it_is_and_who_takes_it(inspect):
    code, out, _ = inspect(TINY_WEIGHTS / "dit.safetensors")
    assert code == 0
    assert "the Mochi AsymmDiT, published layout" in out
    assert "4,993,584 parameters (100.0% float16, 0.0% float32)" in out
    assert "whole; goes into Load AsymmDiT (Mochi)" in out


def test_json_has_an_object_a_line(inspect):
    files = [TINY_WEIGHTS / "decoder.safetensors", TINY_WEIGHTS / "t5"]
    code, out, _ = inspect("--json", *files)
    decoder, t5 = map(json.loads, out.splitlines())
    assert code == 0
    assert decoder["bytes"] == files[0].stat().st_size
    assert [part["part"] for part in decoder["parts"]] == ["decoder"] and "encode" in decoder["lacks"][0]
    assert t5["parts"][0]["loader"] == "Load T5 (Mochi)" and t5["lacks"] == []
    assert t5["parts"][0]["problem"] is None


def test_variant(inspect, tmp_path):
    weights = load_file(TINY_WEIGHTS / "dit.safetensors")
    save_file(weights, tmp_path / "other.safetensors", {"variant": "frames"})
    for name in ("plain", "pusa_v0_dit"):
        save_file(weights, tmp_path / f"{name}.safetensors")
    for file, variant in (("plain", "preview"), ("other", "frames"), ("pusa_v0_dit", "pusa")):
        assert f"taken for the variant {variant}" in inspect(tmp_path / f"{file}.safetensors")[1]
    assert json.loads(inspect("--json", TINY_WEIGHTS / "decoder.safetensors")[1])["variant"] is None


def test_what_is_missing(inspect, tmp_path):
    weights = load_file(TINY_WEIGHTS / "dit.safetensors")
    del weights["blocks.2.mod_x.weight"]
    save_file(weights, tmp_path / "dit.safetensors")
    _, out, _ = inspect(tmp_path / "dit.safetensors")
    assert "1 tensors are missing (blocks.2.mod_x.weight)" in out and "whole" not in out


def test_quants_are_counted(inspect, tmp_path):
    weights = load_file(TINY_WEIGHTS / "dit.safetensors")
    rounded = {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for n, t in weights.items()}
    save_file(rounded, tmp_path / "dit.safetensors")
    _, out, _ = inspect("--json", tmp_path / "dit.safetensors")
    kinds = json.loads(out)["parts"][0]["kinds"]
    assert kinds == {
        "float8_e4m3fn": sum(t.numel() for t in weights.values() if t.ndim == 2),
        "float16": sum(t.numel() for t in weights.values() if t.ndim != 2 and t.dtype == torch.float16),
        "float32": sum(t.numel() for t in weights.values() if t.dtype == torch.float32),
    }


def test_a_lora(inspect, tmp_path):
    factors = {f"blocks.{i}.attn.qkv_x.lora_{k}": torch.ones(4, 4) for i in range(3) for k in "AB"}
    save_file(factors, tmp_path / "lora.safetensors")
    code, out, _ = inspect(tmp_path / "lora.safetensors")
    assert code == 0 and "a LoRA for Mochi: 3 layers of rank 4; goes into Load LoRA (Mochi)" in out


def test_other_models_and_other_files(inspect, tmp_path):
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
    code, out, _ = inspect(tmp_path / "flux.safetensors")
    assert code == 0 and "a Flux or Hunyuan model" in out and "double_blocks.0.img_attn.qkv.weight" in out
    save_file({"double_blocks.0.lora_A.weight": torch.zeros(4, 4)}, tmp_path / "flux.safetensors")
    _, out, _ = inspect(tmp_path / "flux.safetensors")
    assert "only one of a LoRA's two factors" in out
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    code, out, err = inspect(tmp_path / "noise.safetensors")
    assert code == 2 and "cut short or corrupt" in err and not out
    assert inspect(tmp_path / "nothing")[0] == 2


def test_the_file_that_was_asked_about(inspect, tmp_path):
    """An index beside another whole file; its size is that of its own parts."""
    weights = load_file(TINY_WEIGHTS / "dit.safetensors")
    names = sorted(weights)
    parts = {"d-00001-of-00002.safetensors": names[:50], "d-00002-of-00002.safetensors": names[50:]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, tmp_path / part)
    index = tmp_path / "d.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: part for part, held in parts.items() for name in held}}))
    (tmp_path / "vae.safetensors").write_bytes((TINY_WEIGHTS / "decoder.safetensors").read_bytes())
    for path in (index, tmp_path / "d-00002-of-00002.safetensors"):
        described = json.loads(inspect("--json", path)[1])
        assert [part["problem"] for part in described["parts"]] == [None]
        assert described["bytes"] == sum((tmp_path / part).stat().st_size for part in parts)
