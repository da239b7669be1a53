"""Whatever adapters are called and whatever stands around layers, the same LoRA is read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.checkpoint.layouts.wrappers import AVERAGES, INNER, OUTER
from mochi.errors import CheckpointError
from mochi.lora import check_lora, read_lora
from mochi.lora.keys import Key, parse
from mochi.lora.names import Place, find_place

UP, DOWN = torch.ones(96, 2), torch.ones(2, 96)
PLACES = {
    "blocks.1.attn.proj_x": Place("blocks.1.attn.proj_x"),
    "transformer_blocks.0.attn1.to_k": Place("blocks.0.attn.qkv_x", 1, 3),
    "transformer_blocks.1.ff.net.0.proj": Place("blocks.1.mlp_x.w1", swapped=True),
    "transformer_blocks.0.norm1_context.linear": Place("blocks.0.mod_y"),
    "x_embedder.proj": Place("x_embedder.proj"),
    "time_embed.timestep_embedder.linear_1": Place("t_embedder.mlp.0"),
}
TAILS = ["", ".weight", ".default.weight", ".my-style.weight", ".v1.5.weight", ".样式 2.weight", ".lora_B.weight"]
TAILS += [".model.weight", ".7.weight", ".default._fsdp_wrapped_module.weight", ".weight.weight"]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(
    "stem", ["transformer.transformer_blocks.0.attn1.to_q", "base_model.model.blocks.0.attn.proj_x"]
)
def test_names_of_adapters(saved, stem, tail):
    state = {f"{stem}.lora_B{tail}": UP.clone(), f"{stem}.lora_A{tail}": DOWN.clone()}
    (name,) = read_lora(saved(state)).patches
    assert name == ("blocks.0.attn.qkv_x.weight" if "to_q" in stem else "blocks.0.attn.proj_x.weight")


@given(
    st.sampled_from(sorted(PLACES)),
    st.lists(st.sampled_from((*INNER, *OUTER, *AVERAGES)), max_size=4),
    st.lists(st.sampled_from(INNER), max_size=2),
    st.integers(0, 4),
)
def test_wrappers(name, before, inside, where):
    pieces = name.split(".")
    wrapped = ".".join([*before, *pieces[:where], *inside, *pieces[where:]])
    key = parse(f"{wrapped}.lora_A.my-style.weight")
    assert key is not None and (key.role, key.adapter) == ("down", "my-style")
    assert find_place(key.stem, 2) == PLACES[name]


@given(
    st.sampled_from(sorted(PLACES)),
    st.sampled_from(["lora_unet_", "lora_transformer_", "lycoris_"]),
    st.lists(st.sampled_from((*INNER, *OUTER, *AVERAGES)), max_size=3),
    st.sampled_from(["", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."]),
)
def test_wrappers_with_underscores(name, prefix, before, inside):
    first, dot, rest = name.partition(".")
    lines = ".".join([*before, f"{first}{dot}{inside}{rest}"]).replace(".", "_")
    assert find_place(prefix + lines, 2) == PLACES[name]


@pytest.mark.parametrize(
    "name",
    [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "text_encoder.x_embedder.proj",
        "transformer_blocks.0.attn2.to_q",
        "blocks.0.attn.proj_x.proj",
    ],
)
def test_layers_of_other_models(name):
    assert find_place(name, 2) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("x.lora_magnitude_vector", Key("x", "magnitude")),
        ("x.lora_magnitude_vector.weight", Key("x", "magnitude")),
        ("x.lora_magnitude_vector.my-style.weight", Key("x", "magnitude", "my-style")),
        ("lora_unet_x.dora_scale", Key("lora_unet_x", "dora_scale")),
        ("x.lora_B.bias", Key("x", "up_bias")),
        ("x.lora_A.bias", None),
        ("x.diff", Key("x", "diff")),
        ("x.w_norm", Key("x", "diff")),
        ("x.b_norm", Key("x", "diff_b")),
        ("x.lora_mid.weight", None),
        ("x.different", None),
    ],
)
def test_roles(name, key):
    assert parse(name) == key


@pytest.mark.parametrize("other", ["blocks.0.attn.proj_x", "blocks.1.attn.proj_x"])
def test_two_adapters_are_named(saved, other):
    """On the same layers, and on different ones."""
    state = {}
    for stem, adapter in (("blocks.0.attn.proj_x", "my-style"), (other, "a person")):
        state |= {f"{stem}.lora_{x}.{adapter}.weight": t.clone() for x, t in (("A", DOWN), ("B", UP))}
    with pytest.raises(CheckpointError, match=r"several LoRAs, a person, my-style"):
        check_lora(saved(state))


def test_an_adapter_of_a_text_encoder_has_a_name_of_its_own(saved):
    state = {f"blocks.0.attn.proj_x.lora_{x}.one.weight": t.clone() for x, t in (("A", DOWN), ("B", UP))}
    state |= {f"text_encoder.q.lora_{x}.two.weight": t.clone() for x, t in (("A", DOWN), ("B", UP))}
    assert read_lora(saved(state)).patches.keys() == {"blocks.0.attn.proj_x.weight"}
