"""What is no LoRA for this model is refused, with the file, what it seems to be, and what was expected."""

import logging

import pytest
import torch

from mochi.errors import CheckpointError
from mochi.lora import check_lora, patchable_shapes, read_lora
from tests.lora.conftest import tiny_dit

UP, DOWN = torch.ones(96, 2), torch.ones(2, 96)


def pair(name, up=UP, down=DOWN):
    return {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}


QKV = pair("blocks.0.attn.proj_x")
TWO_KINDS = ("dora_scale", "lora_magnitude_vector")
MOCHI = "such as blocks.0.attn.qkv_x"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"anything": UP}, "not a LoRA; it seems to be no model that is known here"),
        ({"blocks.0.attn.qkv_x.weight": UP}, "not a LoRA; it seems to be a part of a Mochi AsymmDiT"),
        ({"SelfAttention.q.weight": UP}, "not a LoRA; it seems to be a part of a T5"),
        (pair("lora_unet_double_blocks_0_img_attn_qkv"), f"one for Flux or Hunyuan Video.*{MOCHI}"),
        (pair("transformer.single_transformer_blocks.0.attn.to_q"), "one for Flux"),
        (pair("diffusion_model.blocks.0.self_attn.q"), "one for Wan"),
        (pair("lora_unet_down_blocks_0_attentions_0_proj_in"), "one for Stable Diffusion"),
        (pair("somewhere.else"), "one for another model .*somewhere.else"),
        ({"blocks.0.attn.proj_x.lora_A": DOWN}, "1 layers have only one .*blocks.0.attn.proj_x"),
        ({"blocks.0.attn.proj_x.lora_B": UP, "blocks.1.attn.proj_x.lora_A": DOWN}, "2 layers have only one"),
        (
            pair("blocks.0.attn.proj_x", UP, torch.ones(3, 96)),
            r"up \[96, 2\] and down \[3, 96\], which do not go together",
        ),
        (pair("blocks.0.attn.proj_x", torch.ones(96), DOWN), "do not go together"),
        (pair("blocks.0.attn.proj_x", UP.int(), DOWN.int()), "not of floating point"),
        (
            QKV | {"blocks.0.attn.proj_x.dora_scale": torch.ones(50, 1)},
            r"dora_scale \[50, 1\], which do not go together",
        ),
        (QKV | {"blocks.0.attn.proj_x.lora_magnitude_vector": torch.ones(95)}, "do not go together"),
        ({"blocks.0.attn.proj_x.dora_scale": torch.ones(96, 1)}, "dora_scale without a LoRA's factors"),
        (QKV | {f"blocks.0.attn.proj_x.{name}": torch.ones(96) for name in TWO_KINDS}, "both magnitude and dora_scale"),
        (QKV | {"blocks.0.attn.proj_x.lora_B.bias": torch.ones(95)}, "do not go together"),
        ({"blocks.0.attn.proj_x.diff_b": torch.ones(96).int()}, "diff_b that is not of floating point"),
        (QKV | {"diffusion_model.blocks.0.attn.proj_x.diff": UP}, "are both for blocks.0.attn.proj_x"),
        (QKV | {"blocks.0.attn.proj_x.diff": UP}, "has both up and diff"),
        ({"blocks.0.attn.proj_x.diff": torch.tensor(1.0)}, "do not go together"),
        ({"blocks.0.attn.proj_x.set_weight": UP}, "has whole weights"),
        (QKV | {"blocks.0.attn.proj_x.lora_mid.weight": UP}, "has LoCon .*not read here"),
        ({"lora_unet_blocks_0_attn_proj_x.lokr_w1": UP}, "has LoKr"),
        ({"lora_unet_blocks_0_attn_proj_x.hada_w1_a": UP}, "has LoHa"),
        (QKV | {"blocks.0.attn.proj_x.alpha": torch.ones(2)}, r"alpha of blocks.0.attn.proj_x is \[1.0, 1.0\]"),
        (QKV | {"blocks.0.attn.proj_x.alpha": torch.tensor(float("nan"))}, "must be a number"),
        (QKV | pair("transformer.blocks.0.attn.proj_x"), "are both for blocks.0.attn.proj_x"),
        (QKV | {"blocks.0.attn.proj_x.lora_up.weight": UP}, "several LoRAs for blocks.0.attn.proj_x"),
    ],
)
def test_refused_by_names_and_shapes(saved, state, words):
    path = saved({name: t.clone() for name, t in state.items()})
    for read in (check_lora, read_lora):
        with pytest.raises(CheckpointError, match=words) as error:
            read(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("place", [0, 50, -1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(saved, place, value):
    up = UP.clone()
    up.view(-1)[place] = value
    path = saved(pair("blocks.0.attn.proj_x", up))
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.proj_x has values that are no numbers"):
        read_lora(path)


@pytest.mark.parametrize("key", ["kwargs", "lora_adapter_metadata"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"alpha": "much", "lora_alpha": "much"}'])
def test_metadata_that_says_nothing(saved, key, text):
    with pytest.raises(CheckpointError, match=r"not JSON|not an object|must be a number"):
        read_lora(saved(QKV, **{key: text}))


def test_a_model_of_other_sizes(saved):
    shapes = patchable_shapes(tiny_dit())
    lora = read_lora(saved(pair("transformer_blocks.0.attn1.to_q", torch.ones(128, 2), torch.ones(2, 128))))
    with pytest.raises(
        CheckpointError, match=r"other sizes.*qkv_x.weight is for \[384, 128\], but the model's is \[288, 96\]"
    ):
        lora.fitted(shapes)
    with pytest.raises(CheckpointError, match=r"does not have \(blocks.9.attn.proj_x.weight\); it has blocks.0"):
        read_lora(saved(pair("blocks.9.attn.proj_x"))).fitted(shapes)


def test_layers_beyond_the_model_are_left_out(saved, caplog):
    lora = read_lora(saved(QKV | pair("blocks.9.attn.proj_x", UP.clone(), DOWN.clone())))
    with caplog.at_level(logging.WARNING):
        assert lora.fitted(patchable_shapes(tiny_dit())).patches.keys() == {"blocks.0.attn.proj_x.weight"}
    assert "1 layers are not in this model (blocks.9.attn.proj_x.weight)" in caplog.text


def test_a_lora_that_ends_early_looks_like_one_for_another_model(saved, caplog):
    shapes = {f"blocks.{i}.attn.qkv_x.weight": (288, 96) for i in range(48)}
    state = {}
    for i in range(42):
        state |= pair(f"transformer.transformer_blocks.{i}.attn1.to_q", UP.clone(), DOWN.clone())
    with caplog.at_level(logging.WARNING):
        assert len(read_lora(saved(state)).fitted(shapes).patches) == 42
    assert "only for the first 42 of 48 blocks" in caplog.text


def test_a_block_number_without_end(saved):
    with pytest.raises(CheckpointError, match="not for Mochi"):
        check_lora(saved(pair("blocks.999999999.attn.proj_x")))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a whole safetensors"), (b"PK\x03\x04rest", "a pickle"), (b"version https://git-lfs", "Git LFS")],
)
def test_other_files(tmp_path, content, words):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_lora(path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_lora(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": 1, "alpha_pattern": [1]},
        {"lora_alpha": 1, "alpha_pattern": {"(": 2}},
        {"lora_alpha": 10**400},
        "[" * 100_000,
    ],
)
def test_settings_that_cannot_be(saved, config):
    path = saved(QKV, lora_adapter_metadata=config)
    with pytest.raises(CheckpointError, match=path.name):
        check_lora(path)


def test_settings_beside_the_file_that_are_no_text(saved):
    path = saved(QKV, name="adapter_model.safetensors")
    path.with_name("adapter_config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not JSON"):
        check_lora(path)
