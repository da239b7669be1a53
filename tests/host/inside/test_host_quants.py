"""Weights in formats of ComfyUI's own quantiser: a MODEL where this ComfyUI has them, else a message."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import comfy.model_management as mm
import comfy.quant_ops
import folder_paths
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter
from exact import assert_close, relative_error
from safetensors import safe_open
from safetensors.torch import load_file, save_file

KEY = "diffusion_model.blocks.1.attn.qkv_x.weight"
ROTATED = {"convrot": True, "convrot_groupsize": 16}
FORMATS = {
    "nvfp4": ({}, {}, 0.2),
    "mxfp8": ({}, {}, 0.1),
    "int8_tensorwise": ({}, {}, 0.05),
    "int8_tensorwise by rows": ({"per_channel": True}, {}, 0.05),
    "int8_tensorwise rotated": ({"per_channel": True, **ROTATED}, ROTATED, 0.05),
    "convrot_w4a4": ({"convrot_groupsize": 16}, {"convrot_groupsize": 16}, 0.4),
}
"""How the host quantises, what the file says of it, and how far the result may be from that of the plain weights."""


def has(kind):
    return kind in getattr(comfy.quant_ops, "QUANT_ALGOS", {})


def is_quantised(name, p):
    return name.endswith("weight") and p.ndim == 2 and name.startswith("blocks.") and p.shape[1] % 64 == 0


@pytest.fixture(scope="module")
def config(small):
    return {"config": json.dumps(asdict(small.network.config))}


def write(path, weights, kind, chosen, metadata, how=None, said=None, beside=False):
    """A file of which the host's quantiser has quantised the chosen weights; returns them as it dequantises them.

    how: its options. said: what the file says of a layer beside the format. beside: whether it says so in tensors.
    """
    layout, stored, plain, layers = comfy.quant_ops.QUANT_ALGOS[kind]["comfy_tensor_layout"], {}, {}, {}
    for name, p in weights.items():
        stored[name] = plain[name] = p
        if chosen(name, p):
            weight = comfy.quant_ops.QuantizedTensor.from_float(p.float(), layout, **(how or {}))
            stored |= weight.state_dict(name)
            plain[name] = weight.dequantize().float()
            layers[name.removesuffix(".weight")] = {"format": kind, **(said or {})}
    assert len(layers) > 10
    if beside:
        texts = {f"{layer}.comfy_quant": json.dumps(conf).encode() for layer, conf in layers.items()}
        stored |= {name: torch.frombuffer(bytearray(text), dtype=torch.uint8) for name, text in texts.items()}
    else:
        metadata = metadata | {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path, metadata)
    return plain


@pytest.fixture(scope="module", params=FORMATS)
def quantised(request, call, small, config):
    """A MODEL of a file of the host's quantiser, one of the weights as the host dequantises them, and a bound."""
    kind, (how, said, bound) = request.param.split()[0], FORMATS[request.param]
    if not has(kind):
        pytest.skip(f"this ComfyUI has no {kind}")
    folder, weights, beside = small.models / "diffusion_models", small.network.state_dict(), "rows" in request.param
    plain = write(folder / "hosted.safetensors", weights, kind, is_quantised, config, how, said, beside)
    save_file(plain, folder / "unpacked.safetensors", config)
    files = ("hosted.safetensors", "unpacked.safetensors")
    return (*(call("MochiParallelLoadDiT", file=file, dtype="auto")[0] for file in files), bound)


def test_equals_the_weights_as_the_host_dequantises_them(quantised, model, k_sampler):
    ours, dequantised, bound = quantised
    assert ours.model_size() < 0.6 * dequantised.model_size()
    result = k_sampler(ours)
    assert_close(result, k_sampler(dequantised))
    assert 0 < relative_error(result, k_sampler(model)) < bound


def test_chosen_dtypes(quantised, call, k_sampler):
    _, dequantised, _ = quantised
    (plain,) = call("MochiParallelLoadDiT", file="hosted.safetensors", dtype="float32")
    assert {p.dtype for p in plain.model.parameters()} == {torch.float32}
    assert {type(p) for p in plain.model.parameters()} == {torch.nn.Parameter}
    assert_close(k_sampler(plain), k_sampler(dequantised))
    (fast,) = call("MochiParallelLoadDiT", file="hosted.safetensors", dtype="float8_e4m3fn_fast")
    assert relative_error(k_sampler(fast), k_sampler(dequantised)) < 0.5


def test_lora(quantised, k_sampler):
    """It is put on as ComfyUI does it with such weights, and taken off again."""
    ours, dequantised, bound = quantised
    before = k_sampler(ours)
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(192, 2, generator=generator), 0.1 * torch.randn(2, 64, generator=generator)
    results = []
    for model in (ours, dequantised):
        clone = model.clone()
        assert clone.add_patches({KEY: LoRAAdapter(set(), (up, down, None, None, None, None))}, 1.0) == [KEY]
        results.append(k_sampler(clone))
    assert relative_error(results[0], results[1]) < bound
    assert relative_error(results[1], before) > 0.05
    assert_close(k_sampler(ours), before)
    mm.unload_all_models()
    assert_close(k_sampler(ours), before)


def test_what_comfyui_saves_loads(quantised, call, k_sampler, small, config):
    ours, _, _ = quantised
    expected = k_sampler(ours)
    call("ModelSave", model=ours, filename_prefix="saved_hosted", hidden={})
    file = max(Path(folder_paths.get_output_directory()).rglob("saved_hosted_*.safetensors"))
    save_file(load_file(file), small.models / "diffusion_models" / "saved_hosted.safetensors", config)
    (again,) = call("MochiParallelLoadDiT", file="saved_hosted.safetensors", dtype="auto")
    assert again.model_size() == ours.model_size()
    assert_close(k_sampler(again), expected)


@pytest.mark.parametrize("kind", ["nvfp4", "int8_tensorwise"])
@torch.no_grad()
def test_a_text_encoder(kind, call, small):
    """Its embedding too, which is no Linear layer."""
    if not has(kind):
        pytest.skip(f"this ComfyUI has no {kind}")
    folder, found = small.models / "text_encoders" / f"t5_{kind}", []
    folder.mkdir()
    shutil.copy(folder.parent / "small_t5" / "tokenizer.json", folder)
    weights = load_file(folder.parent / "small_t5" / "model.safetensors")
    plain = write(folder / "a.safetensors", weights, kind, lambda n, p: p.ndim == 2 and "bias" not in n, {})
    save_file(plain, folder / "b.safetensors")
    for file in ("a.safetensors", "b.safetensors"):
        (clip,) = call("MochiParallelLoadT5", file=f"{folder.name}/{file}", dtype="auto", device="default")
        found.append(call("MochiParallelTextEncode", clip=clip, prompt="a red circle")[0][0][0])
    assert_close(*found)


def test_a_weight_without_its_scales(pack, small, config, call):
    """It is known when the weight is read: the message names the file, the weight and the format."""
    if not has("nvfp4"):
        pytest.skip("this ComfyUI has no nvfp4")
    path = small.models / "diffusion_models" / "hosted_torn.safetensors"
    write(path, small.network.state_dict(), "nvfp4", is_quantised, config)
    with safe_open(path, "pt") as file:
        said, names = file.metadata(), file.keys()
        kept = {name: file.get_tensor(name) for name in names if not name.endswith("mlp_x.w1.weight_scale_2")}
    save_file(kept, path, said)
    errors = pack.module("mochi.errors")
    for dtype in ("auto", "bfloat16"):
        with pytest.raises(errors.CheckpointError, match=rf"{path.name}: .*mlp_x\.w1\.weight cannot be read as nvfp4"):
            call("MochiParallelLoadDiT", file=path.name, dtype=dtype)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_columns_that_were_smoothed(dtype, small, config, call, k_sampler):
    """`pre_quant_scale` of a layer multiplies its input."""
    if not has("nvfp4"):
        pytest.skip("this ComfyUI has no nvfp4")
    path, layer = small.models / "diffusion_models" / "hosted_smooth.safetensors", "blocks.1.mlp_x.w1"
    plain = write(path, small.network.state_dict(), "nvfp4", is_quantised, config)
    with safe_open(path, "pt") as file:
        said, stored = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    columns = torch.linspace(0.5, 2.0, plain[f"{layer}.weight"].shape[1])
    save_file(stored | {f"{layer}.pre_quant_scale": columns}, path, said)
    plain[f"{layer}.weight"] = plain[f"{layer}.weight"] * columns
    save_file(plain, path.with_name("smooth.safetensors"), config)
    models = (call("MochiParallelLoadDiT", file=name, dtype=dtype)[0] for name in (path.name, "smooth.safetensors"))
    assert_close(*map(k_sampler, models))


def test_ranks_are_refused_when_the_prompt_is_queued(quantised, pack):
    node = pack.nodes["MochiParallelLoadDiT"]
    assert node.validate_inputs(file="hosted.safetensors", gpus="1") is True
    complaint = node.validate_inputs(file="hosted.safetensors", gpus="2")
    assert isinstance(complaint, str) and "of ComfyUI's quantiser" in complaint and "one GPU" in complaint


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp8", "int8_tensorwise", "of_next_year"])
def test_a_format_that_this_comfyui_does_not_have(kind, pack, small, config, monkeypatch):
    monkeypatch.setattr(pack.module("nodes.host.files"), "formats", frozenset)
    stored = dict(small.network.state_dict())
    layers = {"blocks.1.mlp_x.w1": {"format": kind}}
    stored["blocks.1.mlp_x.w1.weight"] = torch.zeros(512, 64, dtype=torch.int8)
    stored["blocks.1.mlp_x.w1.weight_scale"] = torch.ones(())
    said = {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file(stored, small.models / "diffusion_models" / "unknown.safetensors", config | said)
    complaint = pack.nodes["MochiParallelLoadDiT"].validate_inputs(file="unknown.safetensors")
    assert isinstance(complaint, str) and kind in complaint and "GGUF" in complaint
