"""Built-in nodes that not every supported ComfyUI has, or has with other sockets. A row says where one is missing."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.host.mixed.checks import CheckedGraph
from tests.host.mixed.graph import FRAMES, HEIGHT, PROMPT, SEED, WIDTH, Link, Output
from tests.host.mixed.test_mixed_guidance import windows
from tests.host.mixed.test_mixed_image import FPS, assert_alike, ours, pictures, pixels, rate, video_of

SECTION = "Nodes of newer versions"


@pytest.mark.mixed("Load AsymmDiT, Mochi Sampler", "MultiGPU CFG Split, KSampler", "Mochi Sampler, on a single device")
def test_multigpu_cfg_split(g: CheckedGraph) -> None:
    g.needs("MultiGPU_WorkUnits")
    split = g("MultiGPU_WorkUnits", model=g.model, max_gpus=2)
    g.assert_equal(g.ksampler(model=split), g.ours())
    g.assert_equal(g.mochi(model=split), g.ours())


@pytest.mark.mixed("Load AsymmDiT, Mochi Sampler", "Select Model Device: default, cpu, KSampler", "Mochi Sampler")
def test_select_model_device(g: CheckedGraph) -> None:
    g.needs("SelectModelDevice")
    for device in ("default", "cpu"):
        placed = g("SelectModelDevice", model=g.model, device=device)
        g.assert_equal(g.ksampler(model=placed), g.ours())
        g.assert_equal(g.mochi(model=placed), g.ours())


@pytest.mark.mixed("Load T5, Mochi Text Encode", "Select CLIP Device: default, cpu", "Mochi Text Encode")
def test_select_clip_device(g: CheckedGraph) -> None:
    g.needs("SelectCLIPDevice")
    for device in ("default", "cpu"):
        clip = g("SelectCLIPDevice", clip=g.clip, device=device)
        g.assert_equal(g.mochi(positive=g("MochiParallelTextEncode", clip=clip, prompt=PROMPT)), g.ours())


@pytest.mark.mixed(
    "Load AsymmVAE, Mochi VAE Decode, Mochi VAE Encode",
    "Select VAE Device: default, and a GPU that is not there",
    "the same without it",
)
def test_select_vae_device(g: CheckedGraph) -> None:
    g.needs("SelectVAEDevice")
    frames = g.decoded(g.ours())
    for device in ("default", "gpu:7"):
        vae = g("SelectVAEDevice", vae=g.vae, device=device)
        g.assert_same_frames(g("MochiParallelVAEDecode", vae=vae, samples=g.ours()), frames)
        g.assert_same_frames(g("VAEDecode", vae=vae, samples=g.ours()), frames)
        g.assert_equal(g("MochiParallelVAEEncode", vae=vae, pixels=frames), g.encoded(frames))


def trained(g: CheckedGraph) -> Link:
    """A LoRA that a few steps have trained on one of our clips."""
    data = {"model": g.model, "latents": g.ours(seed=1), "positive": g.other}
    how = {"batch_size": 1, "grad_accumulation_steps": 1, "steps": 4, "learning_rate": 0.01, "rank": 2, "seed": SEED}
    names = {"optimizer": "AdamW", "loss_function": "MSE", "algorithm": "LoRA", "existing_lora": "[None]"}
    dtypes = {"training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False}
    memory = {"gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False}
    modes = {"bucket_mode": False, "bypass_mode": False}
    node, _ = g.known("TrainLoraNode", **data, **how, **names, **dtypes, **memory, **modes)
    return [node, g.info("TrainLoraNode")["output"].index("LORA_MODEL")]


@pytest.mark.mixed(
    "Load AsymmDiT, Load LoRA (Mochi)",
    "Train LoRA, Save LoRA Weights, Load LoRA Model",
    "Load LoRA (Mochi) of what was saved; without it differs",
)
def test_train_lora(g: CheckedGraph) -> None:
    g.needs("TrainLoraNode", "SaveLoRA", "LoraModelLoader")
    if "bypass_mode" not in g.inputs_of("TrainLoraNode"):  # older ones end with an error where there is one LATENT
        g.skip("fails there with any model")
    lora = trained(g)
    saver = Output("SaveLoRA", {"lora": lora, "prefix": f"mixed/trained{g.ranks}"})
    if g.ranks == 2:
        g.assert_refused(saver, "TrainLoraNode", "Choose 1 GPU")
        return
    g.run(saver)
    (g.comfy.models / "loras").mkdir(exist_ok=True)
    saved = max((g.comfy.output / "mixed").glob("trained1*.safetensors"))
    shutil.copy(saved, g.comfy.models / "loras" / "trained.safetensors")
    theirs = g.known("LoraModelLoader", model=g.model, lora=lora, strength_model=1.0, bypass=False)
    with_ours = g("MochiParallelLoadLoRA", model=g.single, file="trained.safetensors", strength=1.0)
    g.assert_equal(g.ksampler(model=theirs), g.ours(model=with_ours))
    g.assert_differ(g.ksampler(model=theirs), g.ours(), 1e-3)


@pytest.mark.mixed(
    "Load AsymmDiT, Mochi Sampler",
    "Normalized Attention Guidance, KSampler",
    "no patch, which it is to ComfyUI's own Mochi too",
)
def test_normalized_attention_guidance(g: CheckedGraph) -> None:
    g.needs("NAGuidance")
    patched = g("NAGuidance", model=g.model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)
    g.assert_equal(g.ksampler(model=patched), g.ours())
    g.assert_equal(g.mochi(model=patched), g.ours())


@pytest.mark.mixed(
    "Load AsymmDiT",
    "Context Windows (Manual) with FreeNoise, KSampler",
    "Mochi Sampler with the same; without FreeNoise differs",
)
def test_context_windows_with_free_noise(g: CheckedGraph) -> None:
    if "freenoise" not in g.inputs_of("ContextWindowsManual"):
        g.skip("no such widget")

    shuffled = g.ksampler(model=windows(g, g.model, 2, freenoise=True))
    g.assert_equal(shuffled, g.ours(model=windows(g, g.single, 2, freenoise=True)))
    g.assert_differ(shuffled, g.ours(model=windows(g, g.single, 2)))


@pytest.mark.mixed(
    "Mochi VAE Decode, Mochi Save Video",
    "Create Video, Save Video as mkv and what it passes on",
    "Mochi Save Video: frames, size and fps",
)
def test_save_video_passes_on(g: CheckedGraph) -> None:
    if not g.info("SaveVideo")["output"]:
        g.skip("no such output")
    video = g("CreateVideo", images=video_of(g), fps=FPS)
    # A dynamic widget's parts are written `widget.part`.
    how = {"format": "mkv", "format.codec": "h264", "format.codec.encoding": "auto"}
    inputs = {"video": video, "filename_prefix": "mixed/today", **how}
    saved, passed, mine = g.run(
        Output("SaveVideo", inputs), ours(g("SaveVideo", **inputs), "png"), ours(g.decoded(g.ours()), "png")
    )
    assert saved[0].suffix == ".mkv" and rate(saved[0]) == FPS
    assert np.abs(pixels(passed) - pixels(mine)).max() <= 1
    assert_alike(saved, mine)
    g.note("alike to 25 dB; what is passed on to a level of 255")


def larger(g: CheckedGraph, images: Link) -> Link:
    """Frames that are not too small for the network, which pads sides to multiples of 64 by what is beside them."""
    size = {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    return g("ImageScale", image=images, upscale_method="nearest-exact", crop="disabled", **size)


def mean_of_neighbours(g: CheckedGraph) -> str:
    """A RIFE network whose last layers are zero: nothing moves, and a frame between two others is their mean."""
    path, head, width = g.comfy.models / "frame_interpolation" / "mean.safetensors", 4, 4
    shapes = {"encode.cnn0": (16, 3, 3, 3), "encode.cnn1": (16, 16, 3, 3), "encode.cnn2": (16, 16, 3, 3)}
    shapes["encode.cnn3"] = (16, head, 4, 4)
    weights = {}
    for i in range(5):
        into = 7 + 2 * head if i == 0 else 20 + 2 * head
        shapes |= {f"block{i}.conv0.0.0": (width // 2, into, 3, 3), f"block{i}.conv0.1.0": (width, width // 2, 3, 3)}
        shapes |= {f"block{i}.convblock.{j}.conv": (width, width, 3, 3) for j in range(8)}
        shapes[f"block{i}.lastconv.0"] = (width, 52, 4, 4)
        weights |= {f"block{i}.convblock.{j}.beta": torch.ones(1, width, 1, 1) for j in range(8)}
    for name, shape in shapes.items():
        into_out = shape[1] if name.endswith(("cnn3", "lastconv.0")) else shape[0]  # transposed convolutions
        weights |= {f"{name}.weight": torch.zeros(shape), f"{name}.bias": torch.zeros(into_out)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path.name


@pytest.mark.mixed(
    "Mochi VAE Decode, Mochi Save Video",
    "Load Frame Interpolation Model, Run Frame Interpolation Model",
    "the frames, and between two of them their mean, which a RIFE of zeros makes",
)
def test_frame_interpolation(g: CheckedGraph) -> None:
    g.needs("FrameInterpolationModelLoader", "FrameInterpolate")
    network = g("FrameInterpolationModelLoader", model_name=mean_of_neighbours(g))
    large, same = larger(g, video_of(g)), larger(g, g.decoded(g.ours()))
    twice = g("FrameInterpolate", interp_model=network, images=large, multiplier=2)
    made, before = map(pixels, g.run(ours(twice, "png"), pictures(same)))
    assert len(made) == 2 * FRAMES - 1
    assert np.abs(made[::2] - before).max() <= 1
    assert np.abs(made[1::2] - (before[1:] + before[:-1]) / 2).max() <= 1.5
    g.note("equal to a level of 255")
