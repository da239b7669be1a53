"""Files become networks, or an error that says what the file is."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mochi.checkpoint import Checkpoint, load_decoder, load_dit, load_encoder
from mochi.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.errors import CheckpointError
from mochi.vae import Decoder, Encoder
from tests.random_weights import randomised

DIT = DiTConfig(depth=2, num_heads=4, hidden_x=32, hidden_y=16, mlp_x=64, mlp_y=48, text_width=24, patch_size=2)
DECODER = DecoderConfig(base=4, multipliers=(1, 2, 3, 4), res_blocks=(1, 2, 1, 3, 2), groups=2)
ENCODER = EncoderConfig(base=4, multipliers=(1, 2, 3, 4), res_blocks=(2, 1, 3, 1, 2), groups=2, attention_head_dim=4)
HINTS = {"config": json.dumps({"groups": 2, "attention_head_dim": 4, "caption_heads": 8})}


@pytest.fixture(scope="module")
def networks():
    return {
        "dit": randomised(AsymmDiT(DIT), 0),
        "decoder": randomised(Decoder(DECODER), 1),
        "encoder": randomised(Encoder(ENCODER), 2),
    }


@pytest.fixture
def folder(tmp_path, networks):
    """The published layout, and ComfyUI's combined VAE."""
    for name, network in networks.items():
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors", HINTS)
    both = {f"{n}.{k}": v for n in ("decoder", "encoder") for k, v in networks[n].state_dict().items()}
    save_file(both, tmp_path / "vae.safetensors", HINTS)
    return tmp_path


LOADERS = {"dit": load_dit, "decoder": load_decoder, "encoder": load_encoder}


@pytest.mark.parametrize(
    ("part", "file", "config"),
    [
        ("dit", "dit", DIT),
        ("decoder", "decoder", DECODER),
        ("encoder", "encoder", ENCODER),
        ("decoder", "vae", DECODER),
        ("encoder", "vae", ENCODER),
    ],
)
def test_loads_every_layout(folder, networks, part, file, config):
    loaded = LOADERS[part](folder / f"{file}.safetensors")
    assert loaded.config == config
    assert not loaded.training
    weights = networks[part].state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in loaded.state_dict().items())


def test_casts_while_loading_but_keeps_positions_in_float32(folder):
    loaded = load_dit(folder / "dit.safetensors", dtype=torch.bfloat16)
    dtypes = {name: p.dtype for name, p in loaded.named_parameters()}
    assert dtypes.pop("pos_frequencies") == torch.float32
    assert set(dtypes.values()) == {torch.bfloat16}


def test_builds_with_the_operations_of_a_host(folder):
    class Operations:
        class Linear(nn.Linear):
            pass

        Conv2d, Conv3d, GroupNorm = nn.Conv2d, nn.Conv3d, nn.GroupNorm

    loaded = load_dit(folder / "dit.safetensors", operations=Operations)
    assert type(loaded.blocks[0].mod_x) is Operations.Linear


def refused(load, path, *parts):
    with pytest.raises(CheckpointError) as error:
        load(path)
    for part in (path.name, *parts):
        assert part in str(error.value)


def test_says_which_network_a_file_holds(folder):
    refused(load_dit, folder / "vae.safetensors", "not a Mochi AsymmDiT", "AsymmVAE decoder and Mochi AsymmVAE encoder")
    refused(load_decoder, folder / "dit.safetensors", "not a Mochi AsymmVAE decoder", "the Mochi AsymmDiT", "blocks.0.")
    refused(load_encoder, folder / "decoder.safetensors", "not a Mochi AsymmVAE encoder", "the Mochi AsymmVAE decoder")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "a CLIP text encoder"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux or Hunyuan model"),
        ("transformer_blocks.0.attn1.add_q_proj.weight", "a part of a Mochi AsymmDiT in the diffusers layout"),
        ("blocks.0.attn.qkv_x.lora_A", "a LoRA"),
        ("something.else", "no model that is known here"),
    ],
)
def test_names_other_models(tmp_path, name, title):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(1)}, path)
    refused(load_dit, path, title, name)


def test_missing_surplus_and_misshapen_tensors(tmp_path, networks):
    path = tmp_path / "dit.safetensors"
    weights = networks["dit"].state_dict()
    save_file({k: v for k, v in weights.items() if "qkv_y" not in k}, path)
    refused(load_dit, path, "2 tensors are missing (blocks.0.attn.qkv_y.weight, blocks.1.attn.qkv_y.weight)")
    save_file({**weights, "extra.weight": torch.zeros(1)}, path)
    refused(load_dit, path, "1 tensors do not belong there (extra.weight)")
    save_file({**weights, "blocks.0.mod_x.weight": weights["blocks.0.mod_x.weight"].to(torch.uint8)}, path)
    refused(load_dit, path, "not of floating point, nor packed in a known way (blocks.0.mod_x.weight)")
    save_file({**weights, "blocks.1.mod_x.bias": torch.zeros(7)}, path)
    refused(load_dit, path, "blocks.1.mod_x.bias is [7], expected [128]")
    save_file({k: v for k, v in weights.items() if "mlp_x" not in k}, path)
    refused(load_dit, path, "tensors missing", "blocks.0.mlp_x.w2.weight")


def test_sizes_that_cannot_be(tmp_path, networks):
    """Without a hint there are 32 groups, which is too many for so few channels."""
    path = tmp_path / "decoder.safetensors"
    save_file(networks["decoder"].state_dict(), path)
    refused(load_decoder, path, "sizes that cannot be", "num_groups")


OTHERS = ["{", "null", "[1]", '"text"', "[" * 100_000, "{}", '{"transformer": {"num_layers": 48}, "vae": null}']
OTHERS += [
    '{"caption_heads": 7}',
    '{"caption_heads": 0}',
    '{"rope_area": "x"}',
    '{"rope_area": -1}',
    '{"caption_heads": "eight"}',
    '{"caption_heads": true, "text_length": -1}',
]
OTHERS += ['{"rope_area": NaN, "text_length": 1e400, "depth": 3.5}', '{"depth": [1], "hidden_x": {"a": 1}}']


@pytest.mark.parametrize("config", OTHERS)
def test_metadata_of_others_does_no_harm(tmp_path, networks, config):
    path = tmp_path / "dit.safetensors"
    beside = {"config": config, "format": "np", "modelspec.architecture": "x/lora", "workflow": "{", "kwargs": "none"}
    save_file(networks["dit"].state_dict(), path, beside | {"prompt": "null", "": "", "alpha": "much"})
    assert Checkpoint.open(path).plan("dit").model.config == networks["dit"].config


@pytest.mark.parametrize(
    "config", ['{"groups": 2, "multipliers": null}', '{"groups": 2, "base": "wide", "spatial": 7}']
)
def test_hints_count_beside_what_is_none(tmp_path, networks, config):
    path = tmp_path / "decoder.safetensors"
    save_file(networks["decoder"].state_dict(), path, {"config": config})
    assert Checkpoint.open(path).plan("decoder").model.config == networks["decoder"].config


def test_a_file_that_may_not_be_read(tmp_path, networks, monkeypatch):
    path = tmp_path / "dit.safetensors"
    save_file(networks["dit"].state_dict(), path)

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mochi.checkpoint.readers.safetensors_file.safe_open", forbidden)
    monkeypatch.setattr(type(path), "open", forbidden)
    refused(load_dit, path, "cannot be opened", "Permission denied")


def test_unreadable_files(tmp_path, networks):
    whole = tmp_path / "dit.safetensors"
    save_file(networks["dit"].state_dict(), whole)
    refused(load_dit, tmp_path / "nothing.safetensors", "no such file")
    for name, content, why in (
        ("cut.safetensors", whole.read_bytes()[:-1000], "cut short or corrupt"),
        ("noise.safetensors", b"\xff" * 4096, "cut short or corrupt"),
        ("empty.safetensors", b"", "cut short or corrupt"),
        ("model.gguf", b"GGUF\x03\x00\x00\x00", "not a whole GGUF file"),
        ("model.ckpt", b"PK\x03\x04" + bytes(100), "pickle"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        refused(load_dit, path, why)


def test_sizes_of_the_config_are_stored_and_read_back(tmp_path, networks):
    path = tmp_path / "dit.safetensors"
    save_file(networks["dit"].state_dict(), path, {"config": json.dumps(asdict(DIT))})
    assert load_dit(path).config == DIT


def test_any_part_of_a_checkpoint_of_diffusers_with_a_variant(tmp_path, networks):
    weights = networks["dit"].state_dict()
    names = sorted(weights)
    stem = "diffusion_pytorch_model"
    parts = {
        f"{stem}.bf16-00001-of-00002.safetensors": names[::2],
        f"{stem}.bf16-00002-of-00002.safetensors": names[1::2],
    }
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, tmp_path / part)
    index = {"weight_map": {name: part for part, held in parts.items() for name in held}}
    (tmp_path / f"{stem}.safetensors.index.bf16.json").write_text(json.dumps(index))
    for path in (tmp_path, *(tmp_path / part for part in parts)):
        loaded = load_dit(path)
        assert all(torch.equal(v, weights[k]) for k, v in loaded.state_dict().items())


def test_deeply_nested_metadata(tmp_path, networks):
    path = tmp_path / "dit.safetensors"
    save_file(networks["dit"].state_dict(), path, {"_quantization_metadata": "[" * 100_000})
    refused(load_dit, path)
