"""MODEL under built-in samplers, schedules and patches of its weights."""

from __future__ import annotations

import shutil

import torch
from safetensors.torch import save_file

from tests.host.mixed.checks import equal, holds, refused, unlike
from tests.host.mixed.graph import CFG, SEED, STEPS, Graph, Link, Output, difference
from tests.host.mixed.rows import Section
from tests.host.test_quants_server import tiny_weights

MODEL = Section("MODEL and SIGMAS: samplers, schedules, weights")
SCHEDULES = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "kl_optimal"]


@MODEL.row("Load AsymmDiT", "KSampler, EmptyMochiLatentVideo", "Mochi Sampler")
def ksampler(g: Graph):
    yield equal(g.ksampler(), g.ours())


@MODEL.row("Load AsymmDiT", "KSampler (Advanced), twice", "Mochi Sampler, all steps in one node")
def ksampler_advanced(g: Graph):
    names = {"sampler_name": "euler", "scheduler": "linear_quadratic", "steps": STEPS, "cfg": CFG, "noise_seed": SEED}
    prompts = {"model": g.model, "positive": g.positive, "negative": g.negative, **names}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
    last = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 99, "return_with_leftover_noise": "disable"}
    begun = g("KSamplerAdvanced", latent_image=g.empty(), **prompts, **first)
    yield equal(g("KSamplerAdvanced", latent_image=begun, **prompts, **last), g.ours())
    yield unlike(begun, g.ours())


@MODEL.row("Load AsymmDiT, Mochi Sigmas", "SamplerCustom", "Mochi Sampler")
def sampler_custom(g: Graph):
    yield equal(g.custom(), g.ours())


@MODEL.row("Load AsymmDiT, Mochi Sigmas", "SamplerCustomAdvanced, BasicGuider", "Mochi Sampler, cfg 1")
def basic_guider(g: Graph):
    yield equal(g.guided(g("BasicGuider", model=g.model, conditioning=g.positive)), g.ours(cfg=1.0))


@MODEL.row("Load AsymmDiT, Mochi Sigmas", "SamplerCustomAdvanced, CFGGuider", "Mochi Sampler")
def cfg_guider(g: Graph):
    guider = g("CFGGuider", model=g.model, positive=g.positive, negative=g.negative, cfg=CFG)
    yield equal(g.guided(guider), g.ours())


@MODEL.row("Mochi Sigmas, Load AsymmDiT", "SplitSigmas, SamplerCustom, twice", "Mochi Sampler, all steps in one node")
def split_sigmas(g: Graph):
    high, low = g.split(g.sigmas(), 2)
    begun = g.custom(sigmas=high)
    yield equal(g.custom(sigmas=low, add_noise=False, latent_image=begun), g.ours())


@MODEL.row("Mochi Sigmas, Mochi Sampler", "SplitSigmasDenoise", "Mochi Sigmas with that denoise")
def split_sigmas_denoise(g: Graph):
    low = [g("SplitSigmasDenoise", sigmas=g.sigmas(4), denoise=0.5)[0], 1]
    half = g("MochiSigmas", steps=2, threshold_noise=0.025, linear_steps=0, denoise=0.5)
    start = g.ours(seed=1)
    yield equal(g.mochi(sigmas=low, latent=start), g.ours(sigmas=half, latent=start))


@MODEL.row("Mochi Sampler", f"BasicScheduler: {', '.join(SCHEDULES)}", "KSampler with the same schedule")
def basic_scheduler(g: Graph):
    for name in SCHEDULES:
        sigmas = g("BasicScheduler", model=g.model, scheduler=name, steps=3, denoise=1.0)
        yield equal(g.mochi(sigmas=sigmas), g.ksampler(model=g.single, scheduler=name, steps=3))


@MODEL.row("Mochi Sampler", "BasicScheduler: linear_quadratic", "Mochi's own schedule, which it is")
def linear_quadratic(g: Graph):
    sigmas = g("BasicScheduler", model=g.model, scheduler="linear_quadratic", steps=STEPS, denoise=1.0)
    yield equal(g.mochi(sigmas=sigmas), g.ours())


@MODEL.row(
    "Mochi Sigmas, Load AsymmDiT",
    "FlipSigmas, SamplerCustom",
    "the video that is noised again by Euler steps, and denoised",
)
def flip_sigmas(g: Graph):
    _, low = g.split(g.sigmas(32), 20)
    there = {"sigmas": g("FlipSigmas", sigmas=low), "add_noise": False, "cfg": 1.0}
    noised = g.custom(latent_image=g.ours(cfg=1.0), **there)
    again = g.custom(latent_image=noised, sigmas=low, add_noise=False, cfg=1.0)

    def test(start: torch.Tensor, noised: torch.Tensor, back: torch.Tensor) -> None:
        assert difference(back, start) < 0.2 * difference(noised, start)

    yield holds(test, g.ours(cfg=1.0), noised, again, words="it comes back")


@MODEL.row("Mochi Sigmas, Mochi Sampler", "FlipSigmas", "Mochi Sampler goes one way only")
def flipped_sigmas_refused(g: Graph):
    sigmas = g("FlipSigmas", sigmas=g.sigmas())
    yield refused(g.mochi(sigmas=sigmas), "MochiSampler", "The sigmas must fall from step to step")


@MODEL.row("Load AsymmDiT", "ModelSamplingSD3, KSampler", "Mochi Sampler with its sigmas; shift 6 is no change")
def model_sampling_sd3(g: Graph):
    shifted = g("ModelSamplingSD3", model=g.model, shift=3.0)
    sigmas = g("BasicScheduler", model=shifted, scheduler="simple", steps=STEPS, denoise=1.0)
    yield equal(g.ksampler(model=shifted, scheduler="simple"), g.ours(sigmas=sigmas))
    as_it_is = g.ksampler(model=g("ModelSamplingSD3", model=g.model, shift=6.0), scheduler="simple")
    yield equal(as_it_is, g.ksampler(model=g.single, scheduler="simple"))
    yield unlike(g.ksampler(model=shifted, scheduler="simple"), as_it_is, 0.001)


def lora_file(g: Graph) -> str:
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


def with_lora(g: Graph, strength: float = 0.8) -> Link:
    """By our loader, in one process."""
    return g("MochiLoadLoRA", model=g.single, file=lora_file(g), strength=strength)


@MODEL.row("Load AsymmDiT", "LoraLoaderModelOnly, KSampler", "Load LoRA (Mochi), Mochi Sampler")
def lora_loader_model_only(g: Graph):
    theirs = g("LoraLoaderModelOnly", model=g.model, lora_name=lora_file(g), strength_model=0.8)
    yield equal(g.ksampler(model=theirs), g.ours(model=with_lora(g)))
    yield unlike(g.ksampler(model=theirs), g.ours())


@MODEL.row("Load AsymmDiT, Load T5", "Load LoRA", "Load LoRA (Mochi)")
def lora_loader(g: Graph):
    names = {"lora_name": lora_file(g), "strength_model": 0.8, "strength_clip": 0.8}
    node, _ = g("LoraLoader", model=g.model, clip=g.clip, **names)
    text = g("CLIPTextEncode", clip=[node, 1], text="a red circle moves left on a black background")
    yield equal(g.ksampler(model=[node, 0], positive=text), g.ours(model=with_lora(g)))


@MODEL.row(
    "Load AsymmDiT, Load LoRA (Mochi)", "LoraLoaderModelOnly", "Load LoRA (Mochi) with the sum of both strengths"
)
def two_loras(g: Graph):
    ours = g("MochiLoadLoRA", model=g.model, file=lora_file(g), strength=0.5)
    both = g("LoraLoaderModelOnly", model=ours, lora_name=lora_file(g), strength_model=0.3)
    yield equal(g.mochi(model=both), g.ours(model=with_lora(g)))


@MODEL.row("Load AsymmDiT, Mochi Text Encode", "Create Hook LoRA (MO), Cond Pair Set Props", "Load LoRA (Mochi)")
def hook_lora(g: Graph):
    hooks = g("CreateHookLoraModelOnly", lora_name=lora_file(g), strength_model=0.8)
    prompts = {"positive_NEW": g.positive, "negative_NEW": g.negative}
    node, _ = g("PairConditioningSetProperties", **prompts, strength=1.0, set_cond_area="default", hooks=hooks)
    hooked = g.ksampler(positive=[node, 0], negative=[node, 1])
    if g.ranks == 1:
        yield equal(hooked, g.ours(model=with_lora(g)))
    else:
        yield refused(hooked, "KSampler", "Load the LoRA with Load LoRA instead, or choose 1 GPU")


def other_weights(g: Graph) -> tuple[str, str]:
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


@MODEL.row("Load AsymmDiT, twice", "ModelMergeSimple", "Load AsymmDiT of a file with the mean of both weights")
def model_merge_simple(g: Graph):
    other, mean = other_weights(g)
    merged = g("ModelMergeSimple", model1=g.model, model2=g.load(other), ratio=0.5)
    yield equal(g.ksampler(model=merged), g.ours(model=g.load(mean, ranks=1)))
    yield unlike(g.ksampler(model=merged), g.ours(), 1e-3)


@MODEL.row("Load AsymmDiT, twice", "ModelMergeSubtract, ModelMergeAdd", "the model that was subtracted and added again")
def model_merge_and_back(g: Graph):
    other = g.load(other_weights(g)[0])
    less = g("ModelMergeSubtract", model1=g.model, model2=other, multiplier=1.0)
    yield equal(g.ksampler(model=g("ModelMergeAdd", model1=less, model2=other)), g.ours(), within=1e-4)


@MODEL.row("Load AsymmDiT, twice", "ModelMergeMochiPreview", "the first model, where all ratios are 1; the second at 0")
def model_merge_blocks(g: Graph):
    other = g.load(other_weights(g)[0])
    parts = ["pos_frequencies.", "t_embedder.", "t5_y_embedder.", "t5_yproj.", "final_layer."]
    parts += [f"blocks.{i}." for i in range(48)]
    for ratio, same in ((1.0, g.single), (0.0, g.load(other_weights(g)[0], ranks=1))):
        merged = g("ModelMergeMochiPreview", model1=g.model, model2=other, **dict.fromkeys(parts, ratio))
        yield equal(g.ksampler(model=merged), g.ours(model=same))


@MODEL.row("Load AsymmDiT, Load LoRA (Mochi)", "ModelSave", "Load AsymmDiT of what was saved")
def model_save(g: Graph):
    lora = g("MochiLoadLoRA", model=g.model, file=lora_file(g), strength=0.8)
    saver = Output("ModelSave", {"model": lora, "filename_prefix": "mixed/saved"})
    if g.ranks == 2:
        yield refused(saver, "ModelSave", "To save it, choose 1 GPU")
        return
    g.run(saver)
    saved = max((g.comfy.output / "mixed").glob("saved*.safetensors"))
    (g.comfy.models / "diffusion_models").mkdir(exist_ok=True)
    shutil.copy(saved, g.comfy.models / "diffusion_models" / "saved.safetensors")
    yield equal(g.ksampler(model=g.load("saved.safetensors")), g.ours(model=with_lora(g)))


@MODEL.row("Load AsymmDiT", "ModelComputeDtype", "float32, which bfloat16 is near")
def compute_dtype(g: Graph):
    half = g.ksampler(model=g("ModelComputeDtype", model=g.model, dtype="bf16"))
    if g.ranks == 2:
        yield refused(half, "KSampler", "Choose the dtype in Load AsymmDiT (Mochi), or 1 GPU there")
        return

    def test(half: torch.Tensor, full: torch.Tensor) -> None:
        assert 1e-4 < difference(half, full) < 0.1

    yield holds(test, half, g.ours(), words="near, and not equal")


@MODEL.row("Load AsymmDiT", "TorchCompileModel: inductor, KSampler", "Mochi Sampler, not compiled")
def torch_compile(g: Graph):
    compiled = g("TorchCompileModel", model=g.model, backend="inductor")
    yield equal(g.ksampler(model=compiled, cfg=1.0), g.ours(cfg=1.0))  # with one prompt there is one shape to compile
