"""The VAE in every format and layout, alone and within a file of the whole model."""

import pytest
import torch

from mochi.checkpoint import Checkpoint, load_decoder, load_dit, load_encoder
from mochi.errors import CheckpointError
from tests.checkpoint import toys, writers
from tests.peers.diffusers import diffusers_vae

LOADERS = {"decoder": load_decoder, "encoder": load_encoder}


@pytest.fixture(scope="module")
def networks():
    return toys.vae()


def weights_of(networks, dtype=torch.float32):
    return {part: {n: w.to(dtype) for n, w in network.state_dict().items()} for part, network in networks.items()}


def has_just(network, weights):
    found = network.state_dict()
    return found.keys() == weights.keys() and all(found[n].equal(w.to(found[n].dtype)) for n, w in weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, writers.E4M3], ids=str)
@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_combined_file(dtype, prefix, networks, tmp_path):
    weights = weights_of(networks, dtype)
    combined = {f"{prefix}{part}.{name}": w for part, its in weights.items() for name, w in its.items()}
    path = toys.save(tmp_path / "vae.safetensors", combined)
    assert Checkpoint.open(path).parts.keys() == {"decoder", "encoder"}
    for part, load in LOADERS.items():
        network = load(path)
        assert has_just(network, weights[part])
        assert network.output_proj.weight.dtype == (torch.bfloat16 if dtype == writers.E4M3 else dtype)
        assert has_just(load(path, torch.float32), weights[part])


@pytest.mark.parametrize("prefix", ["", "vae."])
@pytest.mark.parametrize("part", LOADERS)
def test_one_part_alone(part, prefix, networks, tmp_path):
    """It loads, and asking for the other says what there is."""
    weights = weights_of(networks)[part]
    names = {f"{prefix}{part}.{name}" if prefix else name: w for name, w in weights.items()}
    path = toys.save(tmp_path / "vae.safetensors", names)
    assert has_just(LOADERS[part](path), weights)
    other = next(name for name in LOADERS if name != part)
    with pytest.raises(
        CheckpointError, match=f"not a Mochi AsymmVAE {other}; it seems to be the Mochi AsymmVAE {part}"
    ):
        LOADERS[other](path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shard_size", ["10GB", "1MB"])
def test_diffusers(dtype, shard_size, networks, tmp_path):
    weights = weights_of(networks, dtype)
    diffusers_vae(networks["decoder"], networks["encoder"]).to(dtype).save_pretrained(
        tmp_path, max_shard_size=shard_size
    )
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "1MB")
    for part, load in LOADERS.items():
        network = load(tmp_path)
        assert has_just(network, weights[part])
        assert network.output_proj.weight.dtype == dtype
        assert network.config == networks[part].config


def test_all_in_one(networks, tmp_path):
    dit = toys.dit()
    t5 = {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4), "shared.weight": torch.zeros(4, 4)}
    path = writers.all_in_one(tmp_path, dit.state_dict(), **weights_of(networks), t5=t5)
    assert Checkpoint.open(path).parts.keys() == {"dit", "decoder", "encoder", "t5"}
    alone = load_dit(writers.old_scaled(tmp_path, dit.state_dict()), compute=torch.float32)
    assert toys.output(load_dit(path, compute=torch.float32)).equal(toys.output(alone))
    for part, load in LOADERS.items():
        assert has_just(load(path), weights_of(networks, torch.float16)[part])
