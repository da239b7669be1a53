"""Features: equal to transformers', the same from every file layout, and not moved by padding."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from mochi.checkpoint.lazy import StoredTensor
from mochi.checkpoint.t5 import infer_config
from mochi.quant import QUANT_DTYPE
from mochi.text import load_prompt_encoder

PROMPT = "a red circle moves left on the black background"
PROMPTS = st.lists(st.sampled_from(PROMPT.split()), min_size=1, max_size=12).map(" ".join)


def test_equals_transformers(folder: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(folder)(
        [PROMPT, "blue"], padding="max_length", max_length=256, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = (
            T5EncoderModel.from_pretrained(folder)
            .eval()(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            .last_hidden_state
        )
    features, mask = load_prompt_encoder(folder)([PROMPT, "blue"])
    assert features.dtype == torch.float32 and features.shape == (2, 256, 32)
    assert mask.equal(tokens.attention_mask.bool())
    torch.testing.assert_close(features[mask], expected[mask], rtol=1e-5, atol=1e-5)


@given(prompt=PROMPTS, other=PROMPTS)
def test_padding_and_neighbours_do_not_change_features(prompt: str, other: str, folder: Path) -> None:
    short, long = load_prompt_encoder(folder, length=64), load_prompt_encoder(folder, length=128)
    alone, mask = short(prompt)
    among, _ = long([other, prompt])
    torch.testing.assert_close(alone[mask], among[1, :64][mask[0]], rtol=1e-5, atol=1e-5)


def test_single_file_equals_folder(folder: Path, single_file: Path) -> None:
    expected, _ = load_prompt_encoder(folder)(PROMPT)
    features, _ = load_prompt_encoder(single_file)(PROMPT)
    assert features.equal(expected)


@pytest.mark.parametrize("layout", ["tied", "combined", "decoder too", "embed_tokens only"])
def test_other_single_files(layout: str, folder: Path, tensors: dict, single_file: Path) -> None:
    expected, _ = load_prompt_encoder(folder)(PROMPT)
    if layout == "tied":
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    if layout == "embed_tokens only":
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    if layout == "combined":
        tensors = {f"text_encoders.t5xxl.transformer.{k}": v for k, v in tensors.items()}
        tensors["model.diffusion_model.t5_yproj.bias"] = torch.zeros(3)
    if layout == "decoder too":
        tensors |= {"decoder.final_layer_norm.weight": torch.zeros(32), "lm_head.weight": torch.zeros(4, 32)}
    save_file(tensors, single_file)
    assert load_prompt_encoder(single_file)(PROMPT)[0].equal(expected)


def test_not_gated(tensors: dict, single_file: Path) -> None:
    """The first T5 has one input projection and a ReLU."""
    relu = {k.replace("wi_0", "wi"): v for k, v in tensors.items() if "wi_1" not in k}
    save_file(relu, single_file)
    encoder = load_prompt_encoder(single_file)
    assert encoder.model.config.dense_act_fn == "relu"
    assert encoder(PROMPT)[0].isfinite().all()


def test_config_of_the_published_file() -> None:
    """The sizes of t5xxl_fp16.safetensors follow from its shapes."""
    published = T5Config(
        vocab_size=32128, d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        model = T5EncoderModel(published)
    entries = {key: StoredTensor(tuple(p.shape), p.dtype, None, None) for key, p in model.named_parameters()}
    config = infer_config(entries)
    for name in (
        "vocab_size",
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_heads",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "layer_norm_epsilon",
        "dense_act_fn",
        "is_gated_act",
    ):
        assert getattr(config, name) == getattr(published, name)
    assert sum(p.numel() for p in model.parameters()) == 4_762_310_656


@pytest.mark.parametrize("given_path", ["parent", "text_encoder"])
def test_diffusers_layout_sharded(given_path: str, folder: Path, spiece: Path, tmp_path: Path) -> None:
    inner = tmp_path / "text_encoder"
    T5EncoderModel.from_pretrained(folder).save_pretrained(inner, max_shard_size="30KB")
    assert len(list(inner.glob("*.safetensors"))) > 1
    (tmp_path / "tokenizer").mkdir()
    shutil.copy(spiece, tmp_path / "tokenizer" / "spiece.model")
    encoder = load_prompt_encoder(tmp_path if given_path == "parent" else inner)
    assert encoder(PROMPT)[0].equal(load_prompt_encoder(folder)(PROMPT)[0])


def test_variant_file_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    assert load_prompt_encoder(tmp_path)(PROMPT)[0].equal(load_prompt_encoder(folder)(PROMPT)[0])


@pytest.mark.parametrize("stored", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_stored_dtypes_are_cast(stored: torch.dtype, tensors: dict, single_file: Path) -> None:
    save_file({k: v.to(stored) for k, v in tensors.items()}, single_file)
    encoder = load_prompt_encoder(single_file, dtype=torch.float32)
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    assert encoder(PROMPT)[0].isfinite().all()


def test_float8_stays_packed(tensors: dict, single_file: Path) -> None:
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in tensors.items()}, single_file)
    packed, cast = load_prompt_encoder(single_file), load_prompt_encoder(single_file, dtype=torch.float32)
    assert {p.dtype for p in packed.model.parameters()} == {torch.float32, QUANT_DTYPE}
    assert packed(PROMPT)[0].equal(cast(PROMPT)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near(dtype: torch.dtype, folder: Path) -> None:
    expected, mask = load_prompt_encoder(folder)([PROMPT, ""])
    features, _ = load_prompt_encoder(folder, dtype=dtype)([PROMPT, ""])
    assert features.dtype == torch.float32 and features.isfinite().all()
    error = (features - expected)[mask].norm() / expected[mask].norm()
    assert error < 0.03


def test_empty_prompt(folder: Path) -> None:
    features, mask = load_prompt_encoder(folder)(["", PROMPT])
    assert not mask[0].any() and mask[1].any() and features.isfinite().all()


def test_embeddings_are_one_module(folder: Path) -> None:
    """So that a host which moves or patches weights by name meets one copy."""
    model = load_prompt_encoder(folder).model
    assert model.encoder.embed_tokens is model.shared
    assert not any(p.is_meta for p in model.parameters()) and not list(model.buffers())
    model.to(torch.float64)
    assert model.encoder.embed_tokens.weight.dtype == torch.float64


def test_follows_its_model_to_another_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is looked up at each call; the meta device stands for a second one."""
    encoder = load_prompt_encoder(folder)
    encoder.model.to("meta")

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        assert attention_mask.device == input_ids.device
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 32, device=input_ids.device))

    monkeypatch.setattr(encoder.model, "forward", forward)
    features, mask = encoder(PROMPT)
    assert features.device.type == mask.device.type == "meta"


def test_config_of_the_folder_counts(folder: Path, tmp_path: Path) -> None:
    """A single file cannot say everything; a folder's config.json can."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["relative_attention_max_distance"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert not load_prompt_encoder(tmp_path)(PROMPT)[0].equal(load_prompt_encoder(folder)(PROMPT)[0])
