"""LoRA in every format: our loader and ComfyUI's own make what weights with the LoRA merged into them make."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import comfy.lora
import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from exact import relative_error
from safetensors.torch import save_file

RANK, ALPHA = 3, 5.0
OURS = ("blocks.0.attn.qkv_x", "blocks.1.attn.qkv_y", "blocks.1.attn.proj_x", "blocks.0.mlp_x.w1", "final_layer.mod")
# Layer of diffusers -> ours, first row, rows; rows None: all of them, with the halves swapped.
DIFFUSERS = {
    "transformer_blocks.0.attn1.to_q": ("blocks.0.attn.qkv_x", 0, 64),
    "transformer_blocks.0.attn1.to_v": ("blocks.0.attn.qkv_x", 128, 64),
    "transformer_blocks.2.attn1.add_k_proj": ("blocks.2.attn.qkv_y", 64, 64),
    "transformer_blocks.1.attn1.to_out.0": ("blocks.1.attn.proj_x", 0, 64),
    "transformer_blocks.1.ff.net.0.proj": ("blocks.1.mlp_x.w1", 0, None),
    "transformer_blocks.0.norm1_context.linear": ("blocks.0.mod_y", 0, 128),
    "transformer_blocks.2.norm1_context.linear_1": ("blocks.2.mod_y", 0, 32),
    "norm_out.linear": ("final_layer.mod", 0, None),
}
FORMATS = {  # which layers, and how their factors are named
    "published": ("ours", "{dots}.lora_{letter}"),
    "ComfyUI": ("ours", "diffusion_model.{dots}.lora_{letter}.weight"),
    "kohya": ("ours", "lora_unet_{lines}.lora_{word}.weight"),
    "diffusers": ("diffusers", "transformer.{dots}.lora_{letter}.weight"),
    "PEFT": ("diffusers", "base_model.model.{dots}.lora_{letter}.weight"),
    "kohya of diffusers": ("diffusers", "lora_unet_{lines}.lora_{word}.weight"),
    "OneTrainer": ("diffusers", "lora_transformer_{lines}.lora_{word}.weight"),
    "LyCORIS": ("diffusers", "lycoris_{lines}.lora_{word}.weight"),
}


def factors(small, layers):
    """Random (down, up) by layer."""
    generator = torch.Generator().manual_seed(9)
    made = {}
    for name in OURS if layers == "ours" else DIFFUSERS:
        ours, _, rows = DIFFUSERS.get(name, (name, 0, None))
        out, columns = small.network.get_submodule(ours).weight.shape
        shapes = ((RANK, columns), (rows or out, RANK))
        made[name] = [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]
    return made


def change(name, up, down):
    """Layer of ours, rows, and what a LoRA of strength 1 adds to them."""
    ours, start, rows = DIFFUSERS.get(name, (name, 0, len(up)))
    added = ALPHA / RANK * up @ down
    if rows is None:
        added = torch.cat(added.chunk(2)[::-1])
    return ours, slice(start, start + len(added)), added


def save(small, format, name, without=()):
    """Write a file, and return its entry in the list."""
    layers, pattern = FORMATS[format]
    state = {}
    for layer, pair in factors(small, layers).items():
        for letter, word, t in zip("AB", ("down", "up"), pair, strict=True):
            key = pattern.format(dots=layer, lines=layer.replace(".", "_"), letter=letter, word=word)
            if layer not in without:
                state[key] = t
                state[key[: key.rindex(".lora_")] + ".alpha"] = torch.tensor(ALPHA)
    (small.models / "loras").mkdir(exist_ok=True)
    save_file(state, small.models / "loras" / f"{name}.safetensors")
    return f"{name}.safetensors"


@pytest.fixture(scope="module")
def files(small):
    """A file of each format."""
    return {format: save(small, format, format.replace(" ", "_")) for format in FORMATS}


@pytest.fixture(scope="module")
def model(call, small):
    """In the dtype of the merged weights, on whatever device."""
    return call("MochiParallelLoadDiT", file=small.dit, dtype="float32")[0]


@pytest.fixture(scope="module")
def merged(call, small, k_sampler):
    """Latents of the network with the layers' LoRA merged at a strength, by hand."""

    def run(layers, strength=1.0):
        state = {name: t.clone() for name, t in small.network.state_dict().items()}
        for name, (down, up) in factors(small, layers).items():
            ours, rows, added = change(name, up, down)
            state[f"{ours}.weight"][rows] += strength * added
        name = f"merged_{layers}_{strength}.safetensors"
        save_file(state, small.models / "diffusion_models" / name)
        return k_sampler(call("MochiParallelLoadDiT", file=name, dtype="float32")[0])

    return run


def ours(call, model, file, strength=1.0):
    return call("MochiParallelLoadLoRA", model=model, file=file, strength=strength)[0]


def comfys(call, model, file, strength=1.0):
    return call("LoraLoaderModelOnly", model=model, lora_name=file, strength_model=strength)[0]


@pytest.mark.parametrize("loader", [ours, comfys])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_equals_merged_weights(call, model, files, merged, k_sampler, caplog, loader, format):
    expected, plain = merged(FORMATS[format][0]), k_sampler(model)
    assert relative_error(expected, plain) > 0.05
    with caplog.at_level("WARNING"):
        assert relative_error(k_sampler(loader(call, model, files[format])), expected) < 1e-5
    assert "not loaded" not in caplog.text and "ERROR" not in caplog.text
    assert torch.equal(k_sampler(model), plain)


@pytest.mark.parametrize("layers", ["published", "diffusers"])
def test_strengths(call, model, files, merged, k_sampler, mochi_sampler, layers):
    plain = k_sampler(model)
    half = k_sampler(ours(call, model, files[layers], -0.5))
    assert relative_error(half, merged(FORMATS[layers][0], -0.5)) < 1e-5
    for sampler in (k_sampler, mochi_sampler):
        assert torch.equal(sampler(ours(call, model, files[layers], 0.0)), sampler(model))
    assert torch.equal(k_sampler(model), plain)


def test_several_in_a_chain(call, model, files, k_sampler):
    def chain(loader):
        return loader(call, loader(call, model, files["kohya"], 0.7), files["diffusers"], -0.4)

    out = k_sampler(chain(ours))
    assert relative_error(out, k_sampler(chain(comfys))) < 1e-5
    assert relative_error(out, k_sampler(ours(call, model, files["kohya"], 0.7))) > 0.01


def test_alpha_in_the_metadata_counts(call, small, model, k_sampler, merged):
    state = {}
    for name, pair in factors(small, "ours").items():
        state |= {f"{name}.lora_{letter}": t for letter, t in zip("AB", pair, strict=True)}
    kwargs = {"qkv_proj_lora_rank": RANK, "qkv_proj_lora_alpha": ALPHA}
    kwargs |= {"out_proj_lora_rank": RANK, "out_proj_lora_alpha": ALPHA}
    save_file(state, small.models / "loras" / "meta.safetensors", metadata={"kwargs": json.dumps(kwargs)})
    assert relative_error(k_sampler(ours(call, model, "meta.safetensors")), merged("ours")) < 1e-5


def test_quantised_weights(call, small, files, k_sampler):
    """As with the rounded weights, and the LoRA merged into those."""
    state = {name: t.clone() for name, t in small.network.state_dict().items()}
    linears = [name for name, module in small.network.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linears:
        scale = state[f"{name}.weight"].abs().max() / 448
        state[f"{name}.weight"] = (state[f"{name}.weight"] / scale).to(torch.float8_e4m3fn).float() * scale
    for name, (down, up) in factors(small, "diffusers").items():
        layer, rows, added = change(name, up, down)
        state[f"{layer}.weight"][rows] += added
    save_file(state, small.models / "diffusion_models" / "merged_float8.safetensors")
    expected = k_sampler(call("MochiParallelLoadDiT", file="merged_float8.safetensors", dtype="float32")[0])
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="float8_e4m3fn")
    bound = 1e-5 if model.model.diffusion_model.dtype == torch.float32 else 0.03  # of what is not quantized
    for loader in (ours, comfys):
        assert relative_error(k_sampler(loader(call, model, files["diffusers"])), expected) < bound


@pytest.mark.parametrize("format", ["published", "diffusers"])
def test_two_ranks(call, pack, small, remote, files, k_sampler, mochi_sampler, requests, format):
    """The factors cross, not the weights; another strength loads nothing again."""
    for_ranks = pack.module("nodes.host.ranks.patches").for_ranks
    loads, (model,) = remote.remote.loads, call("MochiParallelLoadDiT", file=small.dit, dtype="auto")
    for loader, strength in ((ours, 1.0), (ours, 0.5), (comfys, 1.0)):
        expected = k_sampler(loader(call, model, files[format], strength))
        patched = loader(call, remote, files[format], strength)
        assert (
            relative_error(k_sampler(patched), expected) < 1e-5
            and relative_error(mochi_sampler(patched), expected) < 1e-5
        )
        crossing = for_ranks(patched.patches, None, torch.device("cpu"))
        assert {type(patch).__name__ for several in crossing.values() for patch in several} == {"LoraPatch"}
    assert torch.equal(k_sampler(ours(call, remote, files[format], 0.0)), k_sampler(remote))
    assert remote.remote.loads == loads and "LoadDiT" not in requests


def test_comfyuis_own_mochi(call, small):
    """Its network has layers of the same names."""
    sizes = {"depth": 3, "num_heads": 4, "hidden_size_x": 64, "hidden_size_y": 32, "t5_feat_dim": 48, "patch_size": 2}
    # It insists on a visual MLP as wide as the published one.
    sizes |= {"mlp_ratio_x": 12288 / 64, "mlp_ratio_y": 4.0, "in_channels": 12, "qk_norm": True, "qkv_bias": False}
    sizes |= {"use_t5": True, "learn_sigma": False, "out_bias": True, "attn_drop": 0.0, "t5_token_length": 256}
    config = comfy.supported_models.GenmoMochi({"image_model": "mochi_preview", **sizes})
    config.set_inference_dtype(torch.float32, None)
    cpu, mlp = torch.device("cpu"), "transformer_blocks.1.ff.net.0.proj"
    patcher = comfy.model_patcher.ModelPatcher(config.get_model({}, device=cpu), cpu, cpu)
    file = save(small, "diffusers", "without_mlp", without=(mlp,))
    expected = {}
    for name, (down, up) in factors(small, "diffusers").items():
        if name != mlp:
            layer, rows, added = change(name, up, down)
            shape = small.network.get_submodule(layer).weight.shape
            expected.setdefault(f"diffusion_model.{layer}.weight", torch.ones(shape))[rows] += added
    for loader in (ours, comfys):
        patched = loader(call, patcher, file)
        assert patched.patches.keys() == expected.keys()
        for name, weight in expected.items():
            found = comfy.lora.calculate_weight(patched.patches[name], torch.ones_like(weight), name)
            torch.testing.assert_close(found, weight)


def test_importing_the_nodes_replaces_nothing(pack, monkeypatch):
    """Only the pack's own __init__ does."""
    another = ModuleType("another_pack")
    another.__path__ = [str(Path(pack.module("nodes").__file__).parents[1])]
    monkeypatch.setitem(sys.modules, "another_pack", another)
    functions = {name: value for name, value in vars(comfy.lora).items() if callable(value)}
    importlib.import_module("another_pack.nodes.lora")
    assert all(vars(comfy.lora)[name] is function for name, function in functions.items())


def test_names_are_taught_once_and_to_mochi_only(pack, model):
    names = pack.module("nodes.host.sockets.lora_names")
    names.teach_comfyui_lora_names()
    names.teach_comfyui_lora_names()
    taught = comfy.lora.model_lora_keys_unet
    assert not hasattr(taught.before_mochi, "before_mochi")
    other = SimpleNamespace(
        state_dict=lambda: {"diffusion_model.blocks.0.attn.qkv_x.weight": torch.ones(3, 3)},
        model_config=SimpleNamespace(unet_config={}),
    )
    assert taught(other, {}) == taught.before_mochi(other, {})
    known = taught.before_mochi(model.model, {})
    assert known.items() <= taught(model.model, {}).items()


def test_bad_input(call, pack, small, model, files):
    validate = pack.nodes["MochiParallelLoadLoRA"].validate_inputs
    save_file({"a": torch.ones(2)}, small.models / "loras" / "none.safetensors")
    assert validate(file=files["published"], strength=1.0) is True and validate(file=None, strength=None) is True
    assert "not a LoRA" in validate(file="none.safetensors")
    assert "models/loras" in validate(file="absent.safetensors") and "models/loras" in validate(file="../x.safetensors")
    assert "between -10 and 10" in validate(file=files["published"], strength=11.0)
    wrong = {f"blocks.0.attn.proj_x.lora_{x}": torch.ones(shape) for x, shape in (("A", (2, 32)), ("B", (32, 2)))}
    save_file(wrong, small.models / "loras" / "wrong.safetensors")
    with pytest.raises(ValueError, match="other sizes"):
        ours(call, model, "wrong.safetensors")
    network = SimpleNamespace()
    other = SimpleNamespace(get_model_object=lambda name: network, model=network)
    with pytest.raises(ValueError, match="not a Mochi"):
        ours(call, other, files["published"])
