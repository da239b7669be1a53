"""Our sockets in a host with dynamic VRAM. A second name of the CPU stands for the GPU that it needs."""

import comfy.model_management as mm
import comfy.model_patcher
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from exact import relative_error
from safetensors.torch import save_file

if not hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
    pytest.skip("this host has no dynamic VRAM", allow_module_level=True)
import comfy.memory_management
from comfy_aimdo import host_buffer, model_vbar

Dynamic = comfy.model_patcher.ModelPatcherDynamic
GPU = torch.device("cpu", 1)


class Memory:
    """In place of what the host's library reserves on a GPU and in the machine's memory."""

    size = 0

    def __init__(self, *sizes):
        pass

    def alloc(self, size):
        return (self, 0, size)

    def prioritize(self):
        pass

    def loaded_size(self):
        return 0

    def free_memory(self, size):
        return 0


@pytest.fixture
def dynamic(monkeypatch):
    mm.unload_all_models()
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    monkeypatch.setattr(model_vbar, "ModelVBAR", Memory)
    monkeypatch.setattr(model_vbar, "vbars_analyze", lambda device: 0)
    monkeypatch.setattr(host_buffer, "HostBuffer", Memory)
    monkeypatch.setattr(mm, "is_device_cpu", lambda device: device == torch.device("cpu"))
    for name in ("get_torch_device", "text_encoder_device", "vae_device"):
        monkeypatch.setattr(mm, name, lambda: GPU)
    yield
    mm.unload_all_models()


@pytest.fixture(scope="module")
def plain(model, k_sampler, encode):
    """The latents that the MODEL makes without dynamic VRAM."""
    encode("a red circle")  # loaded before there is a GPU
    return k_sampler(model)


@pytest.fixture(scope="module")
def hooked(call, small, encode):
    """A prompt with a LoRA for as long as it is in force."""
    torch.manual_seed(5)
    weights = {"lora_A": torch.randn(2, 64) * 0.3, "lora_B": torch.randn(192, 2) * 0.3}
    (small.models / "loras").mkdir(exist_ok=True)
    path = small.models / "loras" / "hook.safetensors"
    save_file({f"blocks.0.attn.qkv_x.{name}": t for name, t in weights.items()}, path)
    (hooks,) = call("CreateHookLoraModelOnly", lora_name=path.name, strength_model=0.7)
    values = {"cond_NEW": encode("a red circle"), "strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    return call("ConditioningSetProperties", **values)[0]


@pytest.fixture
def loaded(dynamic, call, small):
    return call("MochiParallelLoadDiT", file=small.dit, dtype="float32")[0]


def test_every_weight_has_its_place(loaded):
    """A layer's weights come when it runs, or all of them are there before the first layer runs."""
    assert type(loaded) is Dynamic
    mm.load_models_gpu([loaded])
    network, backup = loaded.model.diffusion_model, loaded.backup
    staged = {name for name, module in network.named_modules() if hasattr(module, "_v")}
    assert "blocks.0.attn.qkv_x" in staged
    for name, _ in network.named_parameters():
        layer, _, kind = name.rpartition(".")
        comes = layer in staged and kind in ("weight", "bias")
        assert comes or f"diffusion_model.{name}" in backup or name == "pos_frequencies", name


def test_it_computes_the_same(loaded, k_sampler, plain):
    assert relative_error(k_sampler(loaded), plain) == 0
    mm.unload_all_models()
    assert relative_error(k_sampler(loaded), plain) == 0


def test_a_patch_waits_for_its_layer(loaded, call):
    patched = loaded.clone()
    key = "diffusion_model.blocks.0.attn.qkv_x.weight"
    assert patched.add_patches({key: ("diff", (torch.ones(192, 64),))})
    mm.load_models_gpu([patched])
    layer = patched.model.diffusion_model.blocks[0].attn.qkv_x
    assert layer.weight_lowvram_function.key == key


def test_where_it_cannot_be_dynamic_there_is_a_plain_one(loaded, k_sampler, plain):
    """As hooks and torch.compile need it."""
    for other in (loaded.clone(disable_dynamic=True), loaded.get_non_dynamic_delegate()):
        assert type(other) is ModelPatcher and other.model is not loaded.model
        other.load_device = torch.device("cpu")
        assert relative_error(k_sampler(other), plain) == 0


def test_a_hook_changes_weights(loaded, hooked, model, k_sampler, plain):
    found, expected = k_sampler(loaded, hooked), k_sampler(model, hooked)
    assert relative_error(found, expected) < 1e-5 < 1e-3 < relative_error(expected, plain)


def test_compiled_blocks_and_quantised_weights_are_not_dynamic(dynamic, call, small, caplog):
    (compiled,) = call("MochiParallelLoadDiT", file=small.dit, dtype="float32", compile=True)
    assert type(compiled) is ModelPatcher
    caplog.set_level("INFO")
    (quantised,) = call("MochiParallelLoadDiT", file=small.dit, dtype="float8_e4m3fn")
    assert not quantised.is_dynamic() and "without ComfyUI's dynamic VRAM" in caplog.text


def test_text_encoder_and_vae(dynamic, call, small, monkeypatch):
    values = {"file": small.vae, "encoder_file": "in the file itself", "dtype": "float32"}
    samples = {"samples": torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(0))}

    def results():
        (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="float32", device="default")
        (vae,) = call("MochiParallelLoadVAE", **values)
        (frames,) = call("MochiParallelVAEDecode", vae=vae, samples=samples)
        latents = call("VAEEncode", vae=vae, pixels=frames)[0]["samples"]
        text = call("MochiParallelTextEncode", clip=clip, prompt="a red circle")[0][0][0]
        return (clip.patcher, vae.patcher), (text, frames, latents)

    patchers, found = results()
    assert all(type(patcher) is Dynamic for patcher in patchers)
    mm.unload_all_models()
    monkeypatch.undo()
    patchers, expected = results()
    assert all(type(patcher) is ModelPatcher for patcher in patchers)
    for one, other in zip(found, expected):
        assert relative_error(one, other) == 0
