"""DoRA and whole differences: our loader makes of each weight what ComfyUI's own makes of it, also over two ranks."""

import comfy.lora
import pytest
import torch
from exact import relative_error
from safetensors.torch import save_file

GENERATOR = torch.Generator().manual_seed(4)
BY_ROWS = ("blocks.0.attn.qkv_x", "blocks.1.attn.proj_y", "blocks.2.mlp_x.w2", "transformer_blocks.1.attn1.to_k")
BY_COLUMNS = ("blocks.1.attn.qkv_y", "final_layer.mod", "transformer_blocks.2.attn1.to_v", "x_embedder.proj")
WHOLE = ("blocks.0.mlp_x.w1", "x_embedder.proj", "blocks.1.attn.q_norm_x", "transformer_blocks.0.attn1.add_q_proj")
BIASES = ("blocks.0.attn.proj_x", "blocks.1.mod_x", "t5_yproj")


def random(*shape):
    return 0.3 * torch.randn(shape, generator=GENERATOR)


def weight_of(network, layer):
    """The weight that a layer's name stands for, or those of its rows that are a layer of diffusers."""
    if not layer.startswith("transformer_blocks"):
        return network.get_submodule(layer).weight
    _, block, _, letter = layer.split(".")
    stream, which = ("y", "qkv".index(letter[4])) if "add" in letter else ("x", "qkv".index(letter[3]))
    return network.get_submodule(f"blocks.{block}.attn.qkv_{stream}").weight.chunk(3)[which]


def dora(network):
    """Names as ComfyUI's loader knows them, magnitudes of rows and of columns."""
    state = {}
    for layer in (*BY_ROWS, *BY_COLUMNS):
        weight = weight_of(network, layer)
        rows, ones = len(weight), [1] * (weight.ndim - 2)
        state[f"{layer}.lora_down.weight"] = random(3, *weight.shape[1:])
        state[f"{layer}.lora_up.weight"] = random(rows, 3, *ones)
        state[f"{layer}.alpha"] = torch.tensor(2.0)
        shape = (rows, 1, *ones) if layer in BY_ROWS else (1, weight.shape[1], *ones)
        state[f"{layer}.dora_scale"] = torch.rand(shape, generator=GENERATOR) + 0.5
    return state


def differences(network):
    state = {f"{layer}.diff": random(*weight_of(network, layer).shape) for layer in WHOLE}
    return state | {f"{layer}.diff_b": random(*network.get_submodule(layer).bias.shape) for layer in BIASES}


FILES = {"dora": dora, "differences": differences}


@pytest.fixture(scope="module")
def files(small):
    (small.models / "loras").mkdir(exist_ok=True)
    for name, make in FILES.items():
        state = {f"diffusion_model.{key}": t for key, t in make(small.network).items()}
        # These names of diffusers' have no prefix of ComfyUI's.
        state = {key.replace("diffusion_model.transformer_blocks", "transformer_blocks"): t for key, t in state.items()}
        save_file(state, small.models / "loras" / f"{name}.safetensors")
    return [f"{name}.safetensors" for name in FILES]


@pytest.fixture(scope="module")
def model(call, small):
    return call("MochiParallelLoadDiT", file=small.dit, dtype="float32")[0]


def ours(call, model, file, strength=1.0):
    return call("MochiParallelLoadLoRA", model=model, file=file, strength=strength)[0]


def comfys(call, model, file, strength=1.0):
    return call("LoraLoaderModelOnly", model=model, lora_name=file, strength_model=strength)[0]


def patched_weights(small, patcher):
    """The weights that ComfyUI computes for the network, by their names in the MODEL."""
    weights = {f"diffusion_model.{name}": p for name, p in small.network.named_parameters()}
    return {key: comfy.lora.calculate_weight(p, weights[key].clone(), key) for key, p in patcher.patches.items()}


@pytest.mark.parametrize("strength", [1.0, 0.4, -0.7])
@pytest.mark.parametrize("name", FILES)
def test_equals_comfyuis_loader(call, small, model, files, caplog, name, strength):
    file = f"{name}.safetensors"
    found, expected = (patched_weights(small, load(call, model, file, strength)) for load in (ours, comfys))
    assert found.keys() == expected.keys() and len(found) in (7, 8)
    for key, weight in expected.items():
        assert relative_error(found[key], weight) < 1e-6
        assert relative_error(weight, small.network.get_parameter(key.removeprefix("diffusion_model."))) > 0.01
    assert "not loaded" not in caplog.text and "MISMATCH" not in caplog.text and "ERROR" not in caplog.text


def test_two_ranks(call, remote, model, files, k_sampler):
    """As in one process."""
    for file in files:
        expected = k_sampler(ours(call, model, file, 0.6))
        assert relative_error(k_sampler(ours(call, remote, file, 0.6)), expected) < 1e-5


@pytest.mark.parametrize(
    ("key", "kind"), [("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("oft_blocks", "OFT"), ("lora_mid.weight", "LoCon")]
)
def test_what_is_not_read_is_left_to_comfyuis_loader(pack, small, key, kind):
    (small.models / "loras").mkdir(exist_ok=True)
    save_file(
        {f"lora_unet_blocks_0_attn_qkv_x.{key}": torch.ones(4, 4)}, small.models / "loras" / f"{kind}.safetensors"
    )
    said = pack.nodes["MochiParallelLoadLoRA"].validate_inputs(file=f"{kind}.safetensors", strength=1.0)
    assert f"has {kind}" in said and "LoraLoaderModelOnly reads it" in said
