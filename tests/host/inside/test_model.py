"""Our MODEL among ComfyUI's own nodes: LoRA, hooks, model patches, areas, masks, batches, memory."""

import comfy.model_management as mm
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import relative_error
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def encode(call, small):
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    return lambda prompt: call("MochiParallelTextEncode", clip=clip, prompt=prompt)[0]


@pytest.fixture(scope="module")
def sample(call, encode):
    """Samples with ComfyUI's KSampler: the latents."""

    def run(model, positive="a red circle", negative="", batch=1, latent=None, steps=3, denoise=1.0):
        positive, negative = (encode(p) if isinstance(p, str) else p for p in (positive, negative))
        if latent is None:
            (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=batch)
        values = {"seed": 3, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "linear_quadratic"}
        values |= {"positive": positive, "negative": negative, "latent_image": latent, "denoise": denoise}
        return call("KSampler", model=model, **values)[0]["samples"]

    return run


@pytest.fixture(scope="module")
def plain(model, sample):
    return sample(model)


@pytest.fixture(scope="module")
def lora(pack, small):
    """A LoRA under the published names, for an attention layer and for the text projection."""
    torch.manual_seed(5)
    weights = {}
    for name in ("blocks.0.attn.qkv_x", "blocks.1.mlp_x.w2", "t5_yproj"):
        out, into = small.network.get_submodule(name).weight.shape
        weights |= {f"{name}.lora_A": torch.randn(2, into) * 0.3, f"{name}.lora_B": torch.randn(out, 2) * 0.3}
    (small.models / "loras").mkdir(exist_ok=True)
    save_file(weights, small.models / "loras" / "small.safetensors")
    return weights


def test_lora_changes_the_result_and_comes_off_again(call, pack, small, model, sample, plain, lora):
    (patched,) = call("LoraLoaderModelOnly", model=model, lora_name="small.safetensors", strength_model=0.7)
    assert len(patched.patches) == 3
    before = {name: weight.clone() for name, weight in model.model.diffusion_model.state_dict().items()}
    with_lora = sample(patched)
    assert relative_error(with_lora, plain) > 1e-2
    assert relative_error(sample(model), plain) == 0
    for name, weight in model.model.diffusion_model.state_dict().items():
        assert torch.equal(weight, before[name]), name

    merged = pack.module("tests.host.inside.small").load(small)
    with torch.no_grad():
        for name in {key.rpartition(".")[0] for key in lora}:
            merged.get_submodule(name).weight += 0.7 * lora[f"{name}.lora_B"] @ lora[f"{name}.lora_A"]
    swapped = model.clone()
    host_network = model.model.diffusion_model
    ours = type(host_network)(host_network.config, dtype=torch.float32)
    ours.load_state_dict(merged.state_dict())
    swapped.add_object_patch("diffusion_model", ours)
    assert relative_error(sample(swapped), with_lora) < 1e-4


def test_lora_as_a_hook_changes_the_prompt_too(call, model, encode, sample, lora):
    """Hooks patch weights while sampling, so what is made once a run must not be made then."""
    (hooks,) = call("CreateHookLoraModelOnly", lora_name="small.safetensors", strength_model=0.7)
    hooked = call("ConditioningSetProperties", cond_NEW=encode("a red circle"), strength=1.0, set_cond_area="default")
    hooked = call("ConditioningSetProperties", cond_NEW=hooked[0], strength=1.0, set_cond_area="default", hooks=hooks)
    negative = call(
        "ConditioningSetProperties", cond_NEW=encode(""), strength=1.0, set_cond_area="default", hooks=hooks
    )
    (patched,) = call("LoraLoaderModelOnly", model=model, lora_name="small.safetensors", strength_model=0.7)
    assert relative_error(sample(model, hooked[0], negative[0]), sample(patched)) < 1e-4


def test_prompts_of_equal_and_different_length_share_a_batch_or_not(model, sample, monkeypatch):
    """A negative prompt as long as the positive one goes with it in one batch; the result does not depend on that."""
    for negative in ("a blue square", "a blue square moves left on black", ""):
        together = sample(model, negative=negative, batch=2)
        with monkeypatch.context() as patch:
            patch.setattr(mm, "get_free_memory", lambda *a, **k: 1)  # no two conditions fit together
            apart = sample(model, negative=negative, batch=2)
        assert relative_error(together, apart) < 1e-5, negative


def test_batch_is_as_if_one_by_one(call, model, sample):
    both = sample(model, batch=2)
    first, second = both.chunk(2)
    assert relative_error(sample(model), first) < 1e-5
    (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=1)
    assert relative_error(sample(model, latent={**latent, "batch_index": [1]}), second) < 1e-5


def test_prompts_of_one_conditioning_can_differ(model, encode, sample):
    """A CONDITIONING with a batch of prompts: one for each video."""
    prompts = [encode("a red circle"), encode("a blue square moves left on black")]
    features = torch.cat([cond[0][0] for cond in prompts])
    masks = torch.cat([cond[0][1]["attention_mask"] for cond in prompts])
    both = sample(model, [[features, {**prompts[0][0][1], "attention_mask": masks}]], batch=2)
    assert relative_error(sample(model, prompts[0], batch=2)[:1], both[:1]) < 1e-5
    assert relative_error(sample(model, prompts[1], batch=2)[1:], both[1:]) < 1e-5


def test_areas_masks_and_combined_prompts(call, model, encode, sample, plain):
    left = call(
        "ConditioningSetArea", conditioning=encode("a blue square"), width=24, height=40, x=8, y=8, strength=1.0
    )
    combined = call("ConditioningCombine", conditioning_1=encode("a red circle"), conditioning_2=left[0])[0]
    assert relative_error(sample(model, combined), plain) > 1e-3
    mask = torch.zeros(1, 6, 8)
    mask[..., 4:] = 1
    masked = call(
        "ConditioningSetMask", conditioning=encode("a blue"), mask=mask, strength=1.0, set_cond_area="default"
    )
    combined = call("ConditioningCombine", conditioning_1=encode("a red circle"), conditioning_2=masked[0])[0]
    assert relative_error(sample(model, combined), plain) > 1e-3


def test_block_patches(call, model, sample, plain):
    """Skip-layer guidance replaces whole blocks; a patch that calls the original one changes nothing."""

    def same(args, extra):
        assert {"img", "txt", "vec", "transformer_options"} <= args.keys()
        return extra["original_block"](args)

    clone = model.clone()
    clone.set_model_patch_replace(same, "dit", "double_block", 1)
    clone.set_model_patch_replace(same, "dit", "double_block", 2)
    assert relative_error(sample(clone), plain) == 0
    settings = {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "1", "single_layers": ""}
    (guided,) = call("SkipLayerGuidanceDiT", model=model, rescaling_scale=0.0, **settings)
    assert relative_error(sample(guided), plain) > 1e-3
    assert relative_error(sample(model), plain) == 0


def test_wrappers_see_the_network(model, sample, plain):
    seen = []

    def watch(executor, *args, **kwargs):
        seen.append(args[0].shape)
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper(WrappersMP.DIFFUSION_MODEL, watch)
    assert relative_error(sample(clone), plain) == 0
    assert len(seen) == 2 * 3


def test_compiled(model, sample, plain):
    """As torch.compile nodes do it: traced once, not again for each step or run."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    clone = model.clone()
    set_torch_compile_wrapper(clone, backend="eager")
    assert relative_error(sample(clone), plain) < 1e-5
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    sample(clone)
    assert counters["stats"]["unique_graphs"] == graphs


def test_inpainting_mask_equals_ksampler(call, model, encode, sample):
    (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=1)
    torch.manual_seed(1)
    latent = {"samples": torch.randn_like(latent["samples"]), "noise_mask": torch.zeros(1, 1, 2, 6, 8)}
    latent["noise_mask"][..., 3:] = 1
    (sigmas,) = call("MochiParallelSigmas", steps=3, threshold_noise=0.025, linear_steps=0, denoise=1.0)
    prompts = {"positive": encode("a red circle"), "negative": encode("")}
    ignored = {"steps": 99, "width": 16, "height": 16, "frames": 1}
    ours = call(
        "MochiParallelSampler", model=model, **prompts, seed=3, cfg=3.0, **ignored, latent=latent, sigmas=sigmas
    )[0]
    assert relative_error(ours["samples"], sample(model, latent=latent)) < 1e-4
    untouched = latent["samples"][..., :3]
    assert relative_error(ours["samples"][..., :3], untouched) < 1e-5
    assert "noise_mask" in ours


def test_partial_denoise_equals_ksampler(call, model, encode, sample):
    torch.manual_seed(1)
    latent = {"samples": torch.randn(1, 12, 2, 6, 8)}
    (sigmas,) = call("MochiParallelSigmas", steps=3, threshold_noise=0.025, linear_steps=0, denoise=0.5)
    assert len(sigmas) == 4 and sigmas[0] < 1
    prompts = {"positive": encode("a red circle"), "negative": encode("")}
    ignored = {"steps": 99, "width": 16, "height": 16, "frames": 1}
    ours = call(
        "MochiParallelSampler", model=model, **prompts, seed=3, cfg=3.0, **ignored, latent=latent, sigmas=sigmas
    )[0]
    assert relative_error(ours["samples"], sample(model, latent=latent, denoise=0.5)) < 1e-4


def test_nothing_of_a_run_stays(model, sample):
    sample(model)
    assert model.model.diffusion_model._table is None


def test_lower_precision(call, small, sample, plain):
    """bfloat16 weights are computed in what the device can: on a CPU, in float32."""
    (half,) = call("MochiParallelLoadDiT", file=small.dit, dtype="bfloat16")
    assert half.model.diffusion_model.blocks[0].attn.qkv_x.weight.dtype == torch.bfloat16
    assert half.model.diffusion_model.pos_frequencies.dtype == torch.float32
    assert 0 < relative_error(sample(half), plain) < 0.2


def test_weights_can_stay_off_the_device(model, sample, plain):
    """What low memory does: weights are cast when their layer runs."""
    clone = model.clone()
    clone.force_cast_weights = True
    mm.unload_all_models()
    assert relative_error(sample(clone), plain) == 0
    mm.unload_all_models()
