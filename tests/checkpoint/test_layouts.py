"""At the published sizes, every layout names each of our tensors once, with its shape. No weights: only names."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import T5Config, T5EncoderModel

from mochi.checkpoint import Checkpoint
from mochi.checkpoint.lazy import StoredTensor
from mochi.checkpoint.networks import CONFIGS
from mochi.config import DecoderConfig, DiTConfig, EncoderConfig
from mochi.dit import AsymmDiT
from mochi.vae import Decoder, Encoder
from scripts.comfyui import HostError, find_or_fetch_comfyui

Shapes = dict[str, tuple[int, ...]]

T5_XXL = T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")


def on_meta(build, *args) -> Shapes:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(*args).state_dict().items()}


@pytest.fixture(scope="module")
def ours() -> dict[str, Shapes]:
    return {
        "dit": on_meta(AsymmDiT, DiTConfig()),
        "decoder": on_meta(Decoder, DecoderConfig()),
        "encoder": on_meta(Encoder, EncoderConfig()),
        "t5": {n: s for n, s in on_meta(T5EncoderModel, T5_XXL).items() if n != "encoder.embed_tokens.weight"},
    }


def found_in(theirs: Shapes) -> tuple[str | None, dict[str, Shapes]]:
    """The layout of a file with such tensors, and its parts under our names."""
    entries = {name: StoredTensor(shape, torch.bfloat16, None, None) for name, shape in theirs.items()}
    file = Checkpoint(Path("file"), entries)
    return file.layout, {part: {name: e.shape for name, e in found.items()} for part, found in file.parts.items()}


def test_our_sizes_are_the_published_ones(ours):
    millions = {part: round(sum(map(math.prod, shapes.values())) / 1e6, 1) for part, shapes in ours.items()}
    assert millions == {"dit": 10027.7, "decoder": 362.5, "encoder": 97.2, "t5": 4762.3}
    assert [len(ours[part]) for part in ("dit", "decoder", "encoder", "t5")] == [879, 162, 243, 219]


@pytest.mark.parametrize("part", ["dit", "decoder", "encoder", "t5"])
def test_published_names(part, ours):
    assert found_in(ours[part]) == ("T5" if part == "t5" else "published", {part: ours[part]})


def test_diffusers_transformer(ours):
    assert found_in(on_meta(MochiTransformer3DModel)) == ("diffusers", {"dit": ours["dit"]})


def test_diffusers_vae(ours):
    theirs = on_meta(AutoencoderKLMochi)
    assert found_in(theirs) == ("diffusers", {part: ours[part] for part in ("decoder", "encoder")})
    for part in ("decoder", "encoder"):
        alone = {name: shape for name, shape in theirs.items() if name.startswith(part)}
        assert found_in(alone) == ("diffusers", {part: ours[part]})


@pytest.mark.parametrize("vae", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize("dit", ["model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("t5", ["text_encoders.t5xxl.transformer.", "t5xxl.transformer."])
def test_comfyui_prefixes(dit, vae, t5, ours):
    prefixes = {"dit": dit, "decoder": f"{vae}decoder.", "encoder": f"{vae}encoder.", "t5": t5}
    theirs = {prefix + name: shape for part, prefix in prefixes.items() for name, shape in ours[part].items()}
    assert found_in(theirs) == ("ComfyUI", ours)
    for part, prefix in prefixes.items():
        alone = {name: shape for name, shape in theirs.items() if name.startswith(prefix)}
        assert found_in(alone) == ("ComfyUI", {part: ours[part]})


def test_t5_of_transformers_with_all_that_may_be_beside(ours):
    embedding = {"encoder.embed_tokens.weight": ours["t5"]["shared.weight"]}
    beside = embedding | {"decoder.block.0.layer.0.layer_norm.weight": (4096,), "spiece_model": (7,), "logit_scale": ()}
    assert found_in(ours["t5"] | beside) == ("T5", {"t5": ours["t5"]})
    tied = {name: shape for name, shape in ours["t5"].items() if name != "shared.weight"} | embedding
    assert found_in(tied) == ("T5", {"t5": ours["t5"]})


def test_t5_of_llama_cpp(ours):
    """Under the names that the format's own library gives them."""
    table = get_tensor_name_map(MODEL_ARCH.T5ENCODER, T5_XXL.num_layers)
    theirs = {table.get_name(name, try_suffixes=(".weight",)): shape for name, shape in ours["t5"].items()}
    assert len(theirs) == len(ours["t5"]) and "token_embd.weight" in theirs
    assert found_in(theirs) == ("T5", {"t5": ours["t5"]})


@pytest.mark.parametrize("part", ["dit", "decoder", "encoder"])
def test_sizes_follow_from_the_shapes(part, ours):
    entries = {name: StoredTensor(shape, torch.bfloat16, None, None) for name, shape in ours[part].items()}
    config = {"dit": DiTConfig, "decoder": DecoderConfig, "encoder": EncoderConfig}[part]
    assert CONFIGS[part](entries, {}) == config()


# Builds what ComfyUI finds in a file with our names.
IN_COMFYUI = """
import json, sys
names = json.load(sys.stdin)
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy import model_detection, ops
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.ldm.genmo.vae.model import VideoVAE
with torch.device("meta"):
    config = model_detection.detect_unet_config({name: torch.empty(shape) for name, shape in names.items()}, "")
    assert config.pop("image_model") == "mochi_preview"
    dit = AsymmDiTJoint(**config, device="meta", operations=ops.disable_weight_init)
    vae = VideoVAE()
print(json.dumps([{name: tensor.shape for name, tensor in part.state_dict().items()} for part in (dit, vae)]))
"""


@pytest.mark.host
def test_comfyui_itself(ours):
    try:
        folder = find_or_fetch_comfyui()
    except HostError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no ComfyUI to test against: {error}")
    done = subprocess.run(
        [sys.executable, "-c", IN_COMFYUI],
        input=json.dumps(ours["dit"]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    dit, vae = (
        {name: tuple(shape) for name, shape in part.items()} for part in json.loads(done.stdout.splitlines()[-1])
    )
    assert dit == ours["dit"]
    assert found_in(vae) == ("ComfyUI", {part: ours[part] for part in ("decoder", "encoder")})
