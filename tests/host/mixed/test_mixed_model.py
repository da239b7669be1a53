"""MODEL under built-in samplers, schedules and patches of its weights."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import CFG, SEED, STEPS, TINY, Link, Output, difference
from tests.host.test_quants_server import tiny_weights
from tests.train.toy_trainer import write_clips

SECTION = "MODEL and SIGMAS: samplers, schedules, weights"
SCHEDULES = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "kl_optimal"]


@pytest.mark.mixed("Load AsymmDiT", "KSampler, EmptyMochiLatentVideo", "Mochi Sampler")
def test_ksampler(g: CheckedGraph) -> None:
    g.assert_equal(g.ksampler(), g.ours())


@pytest.mark.mixed("Load AsymmDiT", "KSampler (Advanced), twice", "Mochi Sampler, all steps in one node")
def test_ksampler_advanced(g: CheckedGraph) -> None:
    names = {"sampler_name": "euler", "scheduler": "linear_quadratic", "steps": STEPS, "cfg": CFG, "noise_seed": SEED}
    prompts = {"model": g.model, "positive": g.positive, "negative": g.negative, **names}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
    last = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 99, "return_with_leftover_noise": "disable"}
    begun = g("KSamplerAdvanced", latent_image=g.empty(), **prompts, **first)
    g.assert_equal(g("KSamplerAdvanced", latent_image=begun, **prompts, **last), g.ours())
    g.assert_differ(begun, g.ours())


@pytest.mark.mixed("Load AsymmDiT, Mochi Sigmas", "SamplerCustom", "Mochi Sampler")
def test_sampler_custom(g: CheckedGraph) -> None:
    g.assert_equal(g.custom(), g.ours())


@pytest.mark.mixed("Load AsymmDiT, Mochi Sigmas", "SamplerCustomAdvanced, BasicGuider", "Mochi Sampler, cfg 1")
def test_basic_guider(g: CheckedGraph) -> None:
    g.assert_equal(g.guided(g("BasicGuider", model=g.model, conditioning=g.positive)), g.ours(cfg=1.0))


@pytest.mark.mixed("Load AsymmDiT, Mochi Sigmas", "SamplerCustomAdvanced, CFGGuider", "Mochi Sampler")
def test_cfg_guider(g: CheckedGraph) -> None:
    guider = g("CFGGuider", model=g.model, positive=g.positive, negative=g.negative, cfg=CFG)
    g.assert_equal(g.guided(guider), g.ours())


@pytest.mark.mixed(
    "Mochi Sigmas, Load AsymmDiT", "SplitSigmas, SamplerCustom, twice", "Mochi Sampler, all steps in one node"
)
def test_split_sigmas(g: CheckedGraph) -> None:
    high, low = g.split(g.sigmas(), 2)
    begun = g.custom(sigmas=high)
    g.assert_equal(g.custom(sigmas=low, add_noise=False, latent_image=begun), g.ours())


@pytest.mark.mixed("Mochi Sigmas, Mochi Sampler", "SplitSigmasDenoise", "Mochi Sigmas with that denoise")
def test_split_sigmas_denoise(g: CheckedGraph) -> None:
    low = [g("SplitSigmasDenoise", sigmas=g.sigmas(4), denoise=0.5)[0], 1]
    half = g("MochiParallelSigmas", steps=2, threshold_noise=0.025, linear_steps=0, denoise=0.5)
    start = g.ours(seed=1)
    g.assert_equal(g.mochi(sigmas=low, latent=start), g.ours(sigmas=half, latent=start))


@pytest.mark.mixed("Mochi Sampler", f"BasicScheduler: {', '.join(SCHEDULES)}", "KSampler with the same schedule")
def test_basic_scheduler(g: CheckedGraph) -> None:
    for name in SCHEDULES:
        sigmas = g("BasicScheduler", model=g.model, scheduler=name, steps=3, denoise=1.0)
        g.assert_equal(g.mochi(sigmas=sigmas), g.ksampler(model=g.single, scheduler=name, steps=3))


@pytest.mark.mixed("Mochi Sampler", "BasicScheduler: linear_quadratic", "Mochi's own schedule, which it is")
def test_linear_quadratic(g: CheckedGraph) -> None:
    sigmas = g("BasicScheduler", model=g.model, scheduler="linear_quadratic", steps=STEPS, denoise=1.0)
    g.assert_equal(g.mochi(sigmas=sigmas), g.ours())


@pytest.mark.mixed(
    "Mochi Sigmas, Load AsymmDiT",
    "FlipSigmas, SamplerCustom",
    "the video that is noised again by Euler steps, and denoised",
)
def test_flip_sigmas(g: CheckedGraph) -> None:
    _, low = g.split(g.sigmas(32), 20)
    there = {"sigmas": g("FlipSigmas", sigmas=low), "add_noise": False, "cfg": 1.0}
    noised = g.custom(latent_image=g.ours(cfg=1.0), **there)
    again = g.custom(latent_image=noised, sigmas=low, add_noise=False, cfg=1.0)
    start, away, back = g.run(g.ours(cfg=1.0), noised, again)
    assert difference(back, start) < 0.2 * difference(away, start)
    g.note("it comes back")


@pytest.mark.mixed("Mochi Sigmas, Mochi Sampler", "FlipSigmas", "Mochi Sampler goes one way only")
def test_flipped_sigmas_refused(g: CheckedGraph) -> None:
    sigmas = g("FlipSigmas", sigmas=g.sigmas())
    g.assert_refused(g.mochi(sigmas=sigmas), "MochiParallelSampler", "The sigmas must fall from step to step")


@pytest.mark.mixed("Load AsymmDiT", "ModelSamplingSD3, KSampler", "Mochi Sampler with its sigmas; shift 6 is no change")
def test_model_sampling_sd3(g: CheckedGraph) -> None:
    shifted = g("ModelSamplingSD3", model=g.model, shift=3.0)
    sigmas = g("BasicScheduler", model=shifted, scheduler="simple", steps=STEPS, denoise=1.0)
    g.assert_equal(g.ksampler(model=shifted, scheduler="simple"), g.ours(sigmas=sigmas))
    as_it_is = g.ksampler(model=g("ModelSamplingSD3", model=g.model, shift=6.0), scheduler="simple")
    g.assert_equal(as_it_is, g.ksampler(model=g.single, scheduler="simple"))
    g.assert_differ(g.ksampler(model=shifted, scheduler="simple"), as_it_is, 0.001)


def lora_file(g: CheckedGraph) -> str:
    """A LoRA with ComfyUI's names, which its own loaders read too."""
    path = g.comfy.models / "loras" / "mixed.safetensors"
    if not path.exists():
        generator, factors = torch.Generator().manual_seed(4), {}
        for i in (0, 2):
            rows, columns = tiny_weights("dit.safetensors")[f"blocks.{i}.attn.qkv_x.weight"].shape
            stem = f"diffusion_model.blocks.{i}.attn.qkv_x"
            factors[f"{stem}.lora_A.weight"] = 0.1 * torch.randn(4, columns, generator=generator)
            factors[f"{stem}.lora_B.weight"] = 0.3 * torch.randn(rows, 4, generator=generator)
            factors[f"{stem}.alpha"] = torch.tensor(2.0)
        path.parent.mkdir(exist_ok=True)
        save_file(factors, path)
    return path.name


def with_lora(g: CheckedGraph, strength: float = 0.8) -> Link:
    """By our loader, in one process."""
    return g("MochiParallelLoadLoRA", model=g.single, file=lora_file(g), strength=strength)


@pytest.mark.mixed("Load AsymmDiT", "LoraLoaderModelOnly, KSampler", "Load LoRA (Mochi), Mochi Sampler")
def test_lora_loader_model_only(g: CheckedGraph) -> None:
    theirs = g("LoraLoaderModelOnly", model=g.model, lora_name=lora_file(g), strength_model=0.8)
    g.assert_equal(g.ksampler(model=theirs), g.ours(model=with_lora(g)))
    g.assert_differ(g.ksampler(model=theirs), g.ours())


def trained_lora(g: CheckedGraph) -> str:
    """The name of a LoRA that our node has trained: a few large steps, once for all that run."""
    write_clips(g.comfy.base / "input" / "mixed_clips", "a red circle moves left", "a blue star moves up")
    files = {"dit": TINY, "t5": TINY, "vae": TINY, "encoder_file": "in the file itself"}
    widgets = {
        "data": "mixed_clips",
        "name": "mixed/trained",
        "steps": 4,
        "learning_rate": 0.02,
        "rank": 4,
        "alpha": 4.0,
    }
    widgets |= {"frames": 7, "width": 32, "height": 32, "batch": 1, "sample_every": 0, "sample_prompts": "", "seed": 1}
    if not (g.comfy.models / "loras" / "mixed" / "trained.safetensors").exists():
        g.run(Output("MochiParallelTrainLoRA", {**files, **widgets, "restart": False}))
    return "mixed/trained.safetensors"


@pytest.mark.mixed(
    "Mochi Train LoRA, Load AsymmDiT", "LoraLoaderModelOnly, KSampler", "Load LoRA (Mochi), Mochi Sampler"
)
def test_trained_lora(g: CheckedGraph) -> None:
    name = trained_lora(g)
    theirs = g("LoraLoaderModelOnly", model=g.model, lora_name=name, strength_model=0.8)
    ours = g("MochiParallelLoadLoRA", model=g.single, file=name, strength=0.8)
    g.assert_equal(g.ksampler(model=theirs), g.ours(model=ours))
    g.assert_differ(g.ksampler(model=theirs), g.ours())


@pytest.mark.mixed("Load AsymmDiT, Load T5", "Load LoRA", "Load LoRA (Mochi)")
def test_lora_loader(g: CheckedGraph) -> None:
    names = {"lora_name": lora_file(g), "strength_model": 0.8, "strength_clip": 0.8}
    node, _ = g("LoraLoader", model=g.model, clip=g.clip, **names)
    text = g("CLIPTextEncode", clip=[node, 1], text="a red circle moves left on a black background")
    g.assert_equal(g.ksampler(model=[node, 0], positive=text), g.ours(model=with_lora(g)))


@pytest.mark.mixed(
    "Load AsymmDiT, Load LoRA (Mochi)", "LoraLoaderModelOnly", "Load LoRA (Mochi) with the sum of both strengths"
)
def test_two_loras(g: CheckedGraph) -> None:
    ours = g("MochiParallelLoadLoRA", model=g.model, file=lora_file(g), strength=0.5)
    both = g("LoraLoaderModelOnly", model=ours, lora_name=lora_file(g), strength_model=0.3)
    g.assert_equal(g.mochi(model=both), g.ours(model=with_lora(g)))


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Text Encode", "Create Hook LoRA (MO), Cond Pair Set Props", "Load LoRA (Mochi)"
)
def test_hook_lora(g: CheckedGraph) -> None:
    hooks = g("CreateHookLoraModelOnly", lora_name=lora_file(g), strength_model=0.8)
    prompts = {"positive_NEW": g.positive, "negative_NEW": g.negative}
    node, _ = g("PairConditioningSetProperties", **prompts, strength=1.0, set_cond_area="default", hooks=hooks)
    hooked = g.ksampler(positive=[node, 0], negative=[node, 1])
    if g.ranks == 1:
        g.assert_equal(hooked, g.ours(model=with_lora(g)))
    else:
        g.assert_refused(hooked, "KSampler", "Load the LoRA with Load LoRA instead, or choose 1 GPU")


def other_weights(g: CheckedGraph) -> tuple[str, str]:
    """Files of a model that is a little unlike the tiny one, and of the mean of both."""
    folder = g.comfy.models / "diffusion_models" / "mixed"
    other, mean = folder / "other.safetensors", folder / "mean.safetensors"
    if not mean.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights = tiny_weights("dit.safetensors")
        changed = {name: 1.3 * w if name.startswith("blocks.") else w for name, w in weights.items()}
        save_file(changed, other)
        save_file({name: (weights[name] + changed[name]) / 2 for name in weights}, mean)
    return f"mixed/{other.name}", f"mixed/{mean.name}"


@pytest.mark.mixed("Load AsymmDiT, twice", "ModelMergeSimple", "Load AsymmDiT of a file with the mean of both weights")
def test_model_merge_simple(g: CheckedGraph) -> None:
    other, mean = other_weights(g)
    merged = g("ModelMergeSimple", model1=g.model, model2=g.load(other), ratio=0.5)
    g.assert_equal(g.ksampler(model=merged), g.ours(model=g.load(mean, ranks=1)))
    g.assert_differ(g.ksampler(model=merged), g.ours(), 1e-3)


@pytest.mark.mixed(
    "Load AsymmDiT, twice", "ModelMergeSubtract, ModelMergeAdd", "the model that was subtracted and added again"
)
def test_model_merge_and_back(g: CheckedGraph) -> None:
    other = g.load(other_weights(g)[0])
    less = g("ModelMergeSubtract", model1=g.model, model2=other, multiplier=1.0)
    g.assert_equal(g.ksampler(model=g("ModelMergeAdd", model1=less, model2=other)), g.ours(), within=1e-4)


@pytest.mark.mixed(
    "Load AsymmDiT, twice", "ModelMergeMochiPreview", "the first model, where all ratios are 1; the second at 0"
)
def test_model_merge_blocks(g: CheckedGraph) -> None:
    other = g.load(other_weights(g)[0])
    parts = ["pos_frequencies.", "t_embedder.", "t5_y_embedder.", "t5_yproj.", "final_layer."]
    parts += [f"blocks.{i}." for i in range(48)]
    for ratio, same in ((1.0, g.single), (0.0, g.load(other_weights(g)[0], ranks=1))):
        merged = g("ModelMergeMochiPreview", model1=g.model, model2=other, **dict.fromkeys(parts, ratio))
        g.assert_equal(g.ksampler(model=merged), g.ours(model=same))


@pytest.mark.mixed("Load AsymmDiT, Load LoRA (Mochi)", "ModelSave", "Load AsymmDiT of what was saved")
def test_model_save(g: CheckedGraph) -> None:
    lora = g("MochiParallelLoadLoRA", model=g.model, file=lora_file(g), strength=0.8)
    saver = Output("ModelSave", {"model": lora, "filename_prefix": "mixed/saved"})
    if g.ranks == 2:
        g.assert_refused(saver, "ModelSave", "To save it, choose 1 GPU")
        return
    g.run(saver)
    saved = max((g.comfy.output / "mixed").glob("saved*.safetensors"))
    (g.comfy.models / "diffusion_models").mkdir(exist_ok=True)
    shutil.copy(saved, g.comfy.models / "diffusion_models" / "saved.safetensors")
    g.assert_equal(g.ksampler(model=g.load("saved.safetensors")), g.ours(model=with_lora(g)))


@pytest.mark.mixed("Load AsymmDiT", "ModelComputeDtype", "float32, which bfloat16 is near")
def test_compute_dtype(g: CheckedGraph) -> None:
    half = g.ksampler(model=g("ModelComputeDtype", model=g.model, dtype="bf16"))
    if g.ranks == 2:
        g.assert_refused(half, "KSampler", "Choose the dtype in Load AsymmDiT (Mochi), or 1 GPU there")
        return
    assert 1e-4 < difference(*g.run(half, g.ours())) < 0.1
    g.note("near, and not equal")


@pytest.mark.mixed("Load AsymmDiT", "TorchCompileModel: inductor, KSampler", "Mochi Sampler, not compiled")
def test_torch_compile(g: CheckedGraph) -> None:
    compiled = g("TorchCompileModel", model=g.model, backend="inductor")
    # With one prompt there is one shape to compile.
    g.assert_equal(g.ksampler(model=compiled, cfg=1.0), g.ours(cfg=1.0))
