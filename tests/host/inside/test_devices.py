"""Our sockets among the nodes that use or select several devices. Two names of the CPU stand for two GPUs."""

import copy

import comfy.model_management as mm
import comfy.samplers
import pytest
import torch
from exact import relative_error

pytest.importorskip("comfy.multigpu", reason="this host has no such nodes")
from comfy_extras import nodes_multigpu

FIRST, SECOND = torch.device("cpu"), torch.device("cpu", 1)


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    monkeypatch.setattr(mm, "get_all_torch_devices", lambda exclude_current=False: [FIRST, SECOND])


@pytest.fixture(scope="module")
def error(pack):
    return pack.module("mochi.errors").MochiError


def moved(patcher):
    """What the nodes that select a device do for a GPU."""
    return nodes_multigpu._retarget_patcher(patcher.clone(), SECOND, patcher.offload_device)


def with_difference(model):
    """A clone whose last layer is patched."""
    clone = model.clone()
    key = "diffusion_model.final_layer.linear.weight"
    difference = torch.randn(clone.model.diffusion_model.final_layer.linear.out_features, 64) * 0.1
    assert clone.add_patches({key: ("diff", (difference,))})
    return clone


@pytest.mark.parametrize("dtype", ["float32", "float8_e4m3fn"])
@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_guidance_is_split(request, call, small, dtype, sampler):
    sample = request.getfixturevalue(sampler)
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype=dtype)
    torch.manual_seed(2)
    model = with_difference(model)
    (split,) = call("MultiGPU_WorkUnits", model=model, max_gpus=2)
    (other,) = split.get_additional_models_with_key("multigpu")
    ran = {name: [] for name in ("first", "second")}
    for name, patcher in zip(ran, (split, other)):
        patcher.model.diffusion_model.register_forward_hook(lambda *_, name=name: ran[name].append(1))
    assert other.load_device == SECOND and other.model is not split.model
    assert relative_error(sample(split), sample(model)) < 1e-5
    assert len(ran["second"]) == 3 and len(ran["first"]) == 3 + 2 * 3
    assert other.model.diffusion_model._table is None, "something of the run has stayed"


@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_given_frames_on_several_devices(request, call, frames_model, sampler):
    """Guidance split over two, and all of it on the second."""
    sample = request.getfixturevalue(sampler)
    latent = {"samples": torch.randn(1, 12, 2, 6, 8), "noise_mask": torch.ones(1, 1, 2, 6, 8)}
    latent["noise_mask"][:, :, 0] = 0.2
    expected = sample(frames_model, latent=latent)
    (split,) = call("MultiGPU_WorkUnits", model=frames_model, max_gpus=2)
    for other in (split, moved(frames_model)):
        assert relative_error(sample(other, latent=latent), expected) < 1e-5
    assert relative_error(sample(frames_model), expected) > 1e-2


def test_prompts_come_to_the_device_of_their_pass(model):
    network = model.model.diffusion_model
    cond = network.text_cond(torch.randn(1, 6, network.config.text_width), torch.ones(1, 6))
    text = comfy.samplers.cond_cat([{"text": cond}, {"text": cond}], device=torch.device("meta"))["text"]
    assert text.caption.is_meta and text.tokens.is_meta and text.lengths == (6, 6)


def test_a_model_on_another_device(model, k_sampler):
    torch.manual_seed(2)
    patched = with_difference(model)
    other = moved(patched)
    assert other.load_device == SECOND and other.model is not model.model
    assert relative_error(k_sampler(other), k_sampler(patched)) == 0
    assert relative_error(k_sampler(moved(other)), k_sampler(patched)) == 0


def test_a_text_encoder_on_another_device(call, small):
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    other = clip.clone()
    other.patcher = moved(other.patcher)
    assert other.cond_stage_model is other.patcher.model is not clip.cond_stage_model
    assert other.cond_stage_model._device == FIRST
    ran = []
    other.patcher.model.t5xxl.transformer.register_forward_hook(lambda *_: ran.append(1))
    prompts = [
        call("MochiParallelTextEncode", clip=c, prompt="a red circle")[0][0][0] for c in (clip, clip.clone(), other)
    ]
    assert len(ran) == 1 and other.cond_stage_model._device == SECOND
    assert torch.equal(prompts[1], prompts[0]) and torch.equal(prompts[2], prompts[0])


def test_a_vae_on_another_device(call, small):
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")
    other = copy.copy(vae)  # as the node does it
    other.patcher = moved(other.patcher)
    other.first_stage_model, other.device = other.patcher.model, SECOND
    assert other.first_stage_model is not vae.first_stage_model
    samples = {"samples": torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(0))}
    for node in ("MochiParallelVAEDecode", "VAEDecode"):
        frames = [call(node, vae=v, samples=samples)[0] for v in (vae, other)]
        assert relative_error(frames[1], frames[0]) == 0
    latents = [call("VAEEncode", vae=v, pixels=frames[0])[0]["samples"] for v in (vae, other)]
    assert relative_error(latents[1], latents[0]) == 0


def test_the_cpu_can_be_selected(call, small, model, k_sampler):
    (on_cpu,) = call("SelectModelDevice", model=model, device="cpu")
    assert relative_error(k_sampler(on_cpu), k_sampler(model)) == 0
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    (same,) = call("SelectCLIPDevice", clip=clip, device="cpu")
    one, other = (call("MochiParallelTextEncode", clip=c, prompt="a red circle")[0][0][0] for c in (clip, same))
    assert torch.equal(one, other)


def test_a_model_of_ranks_says_where_its_devices_are_chosen(call, remote, error):
    with pytest.raises(error, match=r"on cpu.*MultiGPU CFG Split.*loader"):
        call("MultiGPU_WorkUnits", model=remote, max_gpus=2)
    with pytest.raises(error, match="GPUs are chosen in the loader"):
        moved(remote)
