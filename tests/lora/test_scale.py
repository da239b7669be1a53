"""Alpha counts wherever a trainer writes it, and in the order that `mochi/lora/scale.py` says."""

import json
import logging

import pytest
import torch

from mochi.errors import CheckpointError
from mochi.lora import check_lora, read_lora

UP, DOWN = torch.ones(96, 4), torch.ones(4, 96)
STEM = "transformer_blocks.0.attn1.to_q"
STATE = {f"{STEM}.lora_B.weight": UP, f"{STEM}.lora_A.weight": DOWN}
ALPHA = {f"{STEM}.alpha": torch.tensor(2.0)}
FASTVIDEO = {"step": 5, "lora_params": {"lora_rank": 4, "lora_alpha": 8, "target_modules": ["to_k", "to_q"]}}
PEFT = {"r": 4, "lora_alpha": 12, "target_modules": ["to_q"], "peft_type": "LORA"}


def scale(path):
    ((patch,),) = read_lora(path).patches.values()
    return patch.scale


@pytest.mark.parametrize(
    ("expected", "metadata"),
    [
        (1, {}),
        (2, {"ss_network_alpha": "8", "ss_network_dim": "4"}),
        (0.5, {"ss_network_alpha": "2.0"}),
        (1, {"ss_network_alpha": "None", "ss_network_dim": "4"}),
        (1, {"ss_network_alpha": "0"}),
        (2, {"lora_alpha": "8", "rank": "4"}),
        (0.25, {"alpha": "1", "rank": "4"}),
        (1, {"alpha": "premultiplied", "rank": "?"}),
        (3, {"lora_adapter_metadata": {"r": 4, "lora_alpha": 12}}),
        (6, {"lora_adapter_metadata": {"lora_alpha": 12, "use_rslora": True}}),
        (5, {"lora_adapter_metadata": {"lora_alpha": 12, "alpha_pattern": {"attn1.to_q": 20}}}),
        (5, {"lora_adapter_metadata": {"lora_alpha": 12, "alpha_pattern": {"^transformer_blocks.0.+": 20}}}),
        (3, {"lora_adapter_metadata": {"transformer.r": 4, "transformer.lora_alpha": "12"}, "alpha": "1"}),
        (2, {"kwargs": {"qkv_proj_lora_alpha": 8, "out_proj_lora_alpha": 1}}),
        (1, {"config": "{", "modelspec.title": "alpha", "prompt": "null", "format": "pt", "lora_adapter_metadata": ""}),
    ],
)
def test_in_the_metadata(saved, expected, metadata):
    assert scale(saved(STATE, **metadata)) == expected
    assert scale(saved(STATE | ALPHA, **metadata)) == 0.5


NAMES = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "my.safetensors"]


@pytest.fixture
def beside(saved):
    """A LoRA with files of settings beside it."""

    def write(name="my.safetensors", state=STATE, metadata=None, **files):
        path = saved(state, name=name, **(metadata or {}))
        for stem, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            path.with_name(f"{stem}.json").write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", NAMES)
def test_beside_the_file(beside, name):
    assert scale(beside(name, lora_config=FASTVIDEO)) == 2
    assert scale(beside(name, adapter_config=PEFT)) == 3  # PEFT's own comes first
    assert scale(beside(name, metadata={"ss_network_alpha": "1"})) == 0.25
    assert scale(beside(name, STATE | ALPHA)) == 0.5


@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (5, {"alpha_pattern": {"to_q": 20}}),
        (6, {"use_rslora": True}),
        (3, {"r": 16, "rank_pattern": {"to_q": 4}}),
        (3, {"target_modules": r".*\.to_[qkv]"}),
        (3, {"target_modules": None}),
        (1, {"lora_alpha": None}),
    ],
)
def test_settings_of_peft(beside, expected, settings):
    assert scale(beside(adapter_config=PEFT | settings)) == expected


@pytest.mark.parametrize("params", [{"rank": 4, "alpha": 8}, {"lora_rank": 4, "lora_alpha": 8}, {"r": 4, "alpha": "8"}])
def test_settings_of_fastvideo_without_a_frame(beside, params):
    assert scale(beside(lora_config=params)) == 2


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"adapter_config": PEFT | {"r": 8}}, "its rank is 8, but that of transformer_blocks.0.attn1.to_q is 4"),
        ({"adapter_config": PEFT | {"rank_pattern": {"to_q": 2}}}, "its rank is 2"),
        ({"adapter_config": PEFT | {"target_modules": ["to_out.0", "ff.net.2"]}}, "it is not for transformer_blocks"),
        ({"lora_config": {"lora_params": {"lora_rank": 128, "lora_alpha": 256}}}, "its rank is 128"),
    ],
)
def test_settings_of_another_lora_are_not_used(beside, caplog, files, why):
    path = beside(**files)
    with caplog.at_level(logging.WARNING):
        assert scale(path) == 1
    assert f"{path}: " in caplog.text and "is of another LoRA" in caplog.text and why in caplog.text


def test_the_log_says_whose_alpha_it_is(beside, caplog):
    path = beside(lora_config=FASTVIDEO)
    with caplog.at_level(logging.INFO):
        check_lora(path)
    assert f"{path}: its alpha is that of {path.with_name('lora_config.json')}" in caplog.text


@pytest.mark.parametrize("stem", ["adapter_config", "lora_config"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an object"),
        ('{"lora_alpha": "much", "r": 4}', "alpha is much, but must be a number"),
        ('{"lora_alpha": true}', "alpha is True, but must be a number"),
        ('{"lora_alpha": 1e999}', "alpha is inf, but must be a number"),
        ('{"lora_alpha": 1, "r": [4]}', r"rank is \[4\], but must be a number"),
    ],
)
def test_broken_settings_are_named(beside, stem, content, words):
    with pytest.raises(CheckpointError, match=rf"{stem}\.json.*{words}"):
        check_lora(beside(**{stem: content}))
    assert scale(beside(state=STATE | ALPHA, metadata={"kwargs": "{"})) == 0.5  # nobody asks for them


@pytest.mark.parametrize("params", [[1], "r", 3])
def test_settings_of_fastvideo_that_cannot_be(beside, params):
    with pytest.raises(CheckpointError, match=r"lora_config\.json: its lora_params are .*but must be an object"):
        check_lora(beside(lora_config={"lora_params": params}))


@pytest.mark.parametrize("key", ["ss_network_alpha", "lora_alpha", "network_alpha"])
def test_an_alpha_in_the_metadata_that_is_no_number(saved, key):
    path = saved(STATE, **{key: "much"})
    with pytest.raises(CheckpointError, match=f"{path.name}: its metadata: {key} is much, but must be a number"):
        check_lora(path)
