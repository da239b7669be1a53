"""Quantised weights in ComfyUI stay so, and are patched, merged, moved and saved; files of ComfyUI's own savers."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import comfy.model_management as mm
import folder_paths
import gguf
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter
from exact import assert_close, relative_error
from safetensors.torch import load_file, save_file

IN_FILE = "in the file itself"
KEY = "diffusion_model.blocks.1.attn.qkv_x.weight"


def in_blocks(name, p):
    return p.ndim == 2 and p.shape[1] % 32 == 0


@pytest.fixture(scope="module")
def config(pack, small):
    return {"config": json.dumps(asdict(small.network.config))}


def write(small, config, kind):
    """A file of the small network in one format; returns its name, and the weights as others read them."""
    folder, state = small.models / "diffusion_models", small.network.state_dict()
    stored, plain = {}, {}
    for name, p in state.items():
        stored[name] = plain[name] = p
        if not in_blocks(name, p):
            continue
        if kind == "fp8":
            stored[name] = p.to(torch.float8_e4m3fn)
            plain[name] = stored[name].float()
        elif kind == "scaled_fp8":
            scale = p.abs().max() / 448
            stored[name] = (p / scale).to(torch.float8_e4m3fn)
            stored[name.replace(".weight", ".scale_weight")] = scale
            plain[name] = stored[name].float() * scale
        else:
            q8 = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quants.quantize(p.numpy(), q8)
            stored[name] = torch.from_numpy(blocks)
            plain[name] = torch.from_numpy(gguf.quants.dequantize(blocks, q8))
    if kind == "gguf":
        path = folder / "quantised.gguf"
        writer = gguf.GGUFWriter(path, "mochi")
        writer.add_string("config", config["config"])
        for name, p in stored.items():
            types = gguf.GGMLQuantizationType
            kind_of = types.Q8_0 if p.dtype == torch.uint8 else types.F32
            writer.add_tensor(name, p.numpy(), raw_dtype=kind_of)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.name, plain
    if kind == "q8_0":
        stored = {n.replace(".weight", ".Q8_0_qweight") if p.dtype == torch.uint8 else n: p for n, p in stored.items()}
    if kind == "scaled_fp8":
        stored["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    path = folder / f"packed_{kind}.safetensors"
    save_file(stored, path, config)
    return path.name, plain


@pytest.fixture(scope="module", params=["fp8", "scaled_fp8", "q8_0", "gguf"])
def quantised(request, call, small, config):
    """A MODEL with quantised weights, and one of the same weights dequantised by another library."""
    name, plain = write(small, config, request.param)
    save_file(plain, small.models / "diffusion_models" / "dequantised.safetensors", config)
    models = (call("MochiParallelLoadDiT", file=file, dtype="auto")[0] for file in (name, "dequantised.safetensors"))
    return (name, *models)


def lora(model, strength):
    """A clone with a LoRA on one layer."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = 192, 64
    up, down = torch.randn(rows, 2, generator=generator), 0.1 * torch.randn(2, columns, generator=generator)
    clone = model.clone()
    assert clone.add_patches({KEY: LoRAAdapter(set(), (up, down, None, None, None, None))}, strength) == [KEY]
    return clone


def quantised_bytes(model):
    layer = model.model.diffusion_model.get_submodule("blocks.1.attn.qkv_x")
    assert layer.weight.dtype == torch.int8
    return layer.weight.clone()


def test_listed_and_stays_quantised(quantised, pack):
    name, model, dequantised = quantised
    assert name in pack.nodes["MochiParallelLoadDiT"].INPUT_TYPES()["required"]["file"][1]["options"]
    assert pack.nodes["MochiParallelLoadDiT"].validate_inputs(file=name) is True
    assert model.model_size() < 0.45 * dequantised.model_size()
    quantised_bytes(model)


def test_equals_the_dequantised_weights(quantised, k_sampler, mochi_sampler):
    _, model, dequantised = quantised
    assert_close(k_sampler(model), k_sampler(dequantised))
    assert_close(mochi_sampler(model), mochi_sampler(dequantised))


def test_lora_beside_quantised_weights(quantised, k_sampler):
    """It comes, changes and goes; the bytes are the same all along."""
    _, model, dequantised = quantised
    before, none = quantised_bytes(model), k_sampler(model)
    results = {}
    for strength in (0.0, 0.5, 1.0):
        results[strength] = k_sampler(lora(model, strength))
        assert_close(results[strength], k_sampler(lora(dequantised, strength)))
        assert torch.equal(quantised_bytes(model), before)
    assert torch.equal(results[0.0], none)
    assert (results[1.0] - results[0.5]).abs().max() > 1e-3
    assert torch.equal(k_sampler(model), none)


def test_lora_on_a_model_that_is_loaded_in_part(quantised, k_sampler):
    """ComfyUI brings its own patches for what is not on the device, and must not find ours there too."""
    _, model, dequantised = quantised
    expected = k_sampler(lora(dequantised, 1.0))
    patched = lora(model, 1.0)
    mm.unload_all_models()
    patched.partially_load(torch.device("cpu"), model.model_size() // 2)
    assert patched.model.model_lowvram
    layer = patched.model.diffusion_model.get_submodule("blocks.1.attn.qkv_x")
    assert len(layer.patches()) == 1
    assert_close(k_sampler(patched), expected)
    k_sampler(patched)
    patched.partially_unload(torch.device("cpu"), model.model_size())
    assert len(layer.patches()) == 1
    assert_close(k_sampler(patched), expected)
    mm.unload_all_models()


def test_merging_models(quantised, call, model, k_sampler):
    _, ours, dequantised = quantised
    merged = {}
    for name, other in (("quantised", ours), ("dequantised", dequantised)):
        (first,) = call("ModelMergeSimple", model1=model, model2=other, ratio=0.3)
        (second,) = call("ModelMergeSimple", model1=other, model2=model, ratio=0.3)
        merged[name] = k_sampler(first), k_sampler(second)
    for ours, expected in zip(merged["quantised"], merged["dequantised"], strict=True):
        assert_close(ours, expected)


def test_chosen_dtypes(quantised, call, k_sampler):
    name, _, dequantised = quantised
    (plain,) = call("MochiParallelLoadDiT", file=name, dtype="float32")
    assert {p.dtype for p in plain.model.parameters()} == {torch.float32}
    assert_close(k_sampler(plain), k_sampler(dequantised))


def test_float8_of_any_file(call, small, model, k_sampler):
    exact = k_sampler(model)
    for dtype, error in (("float8_e4m3fn", 0.2), ("float8_e4m3fn_fast", 0.3)):
        (rounded,) = call("MochiParallelLoadDiT", file=small.dit, dtype=dtype)
        quantised_bytes(rounded)
        assert rounded.model_size() < 0.35 * model.model_size()
        result = k_sampler(rounded)
        assert 1e-4 < relative_error(result, exact) < error


def test_float8_layers_take_quantised_rows(call, small, pack):
    """Unless something is on their weight: a LoRA, or what ComfyUI brings where a model is loaded in part."""
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="float8_e4m3fn_fast")
    layer = model.model.diffusion_model.get_submodule("blocks.1.attn.qkv_x")
    rows = pack.module("mochi.quant.rows")
    x = torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert layer.takes_rows(x)
    assert layer(rows.QuantRows(*rows.quantize_rows(x))).equal(layer(x))
    layer.patch = lambda weight: weight
    assert not layer.takes_rows(x)
    layer.patch = None
    layer.weight_function = [lambda weight: weight]
    assert not layer.takes_rows(x)


def saved(prefix):
    """The file that ComfyUI has written last."""
    return max(Path(folder_paths.get_output_directory()).rglob(f"{prefix}_*.safetensors"))


def test_what_comfyui_saves_of_quantised_weights_loads(quantised, call, k_sampler, small, config):
    """ModelSave writes values, with the LoRA that is on them; no bytes that nobody can read."""
    _, model, _ = quantised
    with_lora = lora(model, 1.0)
    expected = k_sampler(with_lora)
    call("ModelSave", model=with_lora, filename_prefix="saved_packed", hidden={})
    tensors = load_file(saved("saved_packed"))
    assert all(t.is_floating_point() for t in tensors.values())
    save_file(tensors, small.models / "diffusion_models" / "saved.safetensors", config)
    (again,) = call("MochiParallelLoadDiT", file="saved.safetensors", dtype="auto")
    assert_close(k_sampler(again), expected, 2e-2)  # quantised weights are saved in bfloat16


def test_checkpoint_save_makes_one_file_for_all_loaders(call, small, model, k_sampler):
    """ComfyUI's CheckpointSave of a whole model; each of our loaders takes its part."""
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")
    call("CheckpointSave", model=model, clip=clip, vae=vae, filename_prefix="all_in_one")
    tensors = load_file(saved("all_in_one"))
    hints = asdict(small.network.config) | {"groups": 4, "attention_head_dim": 16}
    tokenizer = small.models / "checkpoints" / "tokenizer"  # this small T5 has one of its own
    tokenizer.mkdir(parents=True, exist_ok=True)
    shutil.copy(small.models / "text_encoders" / small.t5 / "tokenizer.json", tokenizer)
    save_file(tensors, small.models / "checkpoints" / "all_in_one.safetensors", {"config": json.dumps(hints)})
    (again,) = call("MochiParallelLoadDiT", file="all_in_one.safetensors", dtype="auto")
    state = again.model.diffusion_model.state_dict()
    assert all(torch.equal(p, state[name]) for name, p in small.network.state_dict().items())
    assert_close(k_sampler(again), k_sampler(model))  # where weights lie in a file can be a last bit of a product
    (vae_again,) = call("MochiParallelLoadVAE", file="all_in_one.safetensors", encoder_file=IN_FILE, dtype="auto")
    latent = torch.randn(1, 12, 2, 6, 8, generator=torch.Generator().manual_seed(1))
    assert_close(vae_again.decode(latent), vae.decode(latent))
    assert vae_again.first_stage_model.encoder is not None
    weights = clip.cond_stage_model.state_dict()
    (clip_again,) = call("MochiParallelLoadT5", file="all_in_one.safetensors", dtype="float32", device="default")
    for key, value in clip_again.cond_stage_model.state_dict().items():
        assert torch.equal(value, weights[key])


@pytest.mark.parametrize("node", ["VAESave", "ModelSave"])
def test_what_comfyui_saves_loads(call, small, model, node, config):
    if node == "ModelSave":
        call(node, model=model, filename_prefix="one_model")
        tensors = load_file(saved("one_model"))
        save_file(tensors, small.models / "diffusion_models" / "one_model.safetensors", config)
        (again,) = call("MochiParallelLoadDiT", file="one_model.safetensors", dtype="auto")
        state = again.model.diffusion_model.state_dict()
        assert all(torch.equal(p, state[name]) for name, p in small.network.state_dict().items())
        return
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")
    call(node, vae=vae, filename_prefix="one_vae")
    hints = {"groups": 4, "attention_head_dim": 16}
    save_file(load_file(saved("one_vae")), small.models / "vae" / "one_vae.safetensors", {"config": json.dumps(hints)})
    (again,) = call("MochiParallelLoadVAE", file="one_vae.safetensors", encoder_file=IN_FILE, dtype="auto")
    state = again.first_stage_model.state_dict()
    assert all(torch.equal(p, state[name]) for name, p in vae.first_stage_model.state_dict().items())
