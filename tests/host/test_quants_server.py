"""Every format over the API of a running ComfyUI: the tiny model in it makes a video, in one process and over two
ranks.
"""

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi.checkpoint import Checkpoint
from mochi.config import TINY_WEIGHTS
from scripts.comfyui import PROJECT
from tests.checkpoint import writers
from tests.exact import relative_error

TINY = json.loads((PROJECT / "workflows" / "api" / "tiny_on_two_ranks.json").read_text(encoding="utf-8"))
ALL_IN_ONE = "packed/all_in_one.safetensors"


def tiny_weights(part: str) -> writers.Weights:
    return {name: entry.read().float() for name, entry in Checkpoint.open(TINY_WEIGHTS / part).tensors.items()}


def cast(folder: Path, weights: writers.Weights, dtype: torch.dtype) -> Path:
    path = folder / f"{str(dtype).removeprefix('torch.')}.safetensors"
    save_file({name: value.to(dtype) for name, value in weights.items()}, path)
    return path


def diffusers_folder(folder: Path, weights: writers.Weights) -> Path:
    """Written by diffusers itself, in several files."""
    from mochi.config import TINY
    from tests.checkpoint.toys import with_weights
    from tests.peers.diffusers import diffusers_dit

    path = folder / "diffusers_layout"
    diffusers_dit(with_weights(TINY.dit, weights)).save_pretrained(path, max_shard_size="8MB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


QUANTS: dict[str, Callable[[Path, writers.Weights], Path]] = {
    "float32": partial(cast, dtype=torch.float32),
    "bfloat16": partial(cast, dtype=torch.bfloat16),
    "fp8": partial(writers.plain_float8, dtype=torch.float8_e4m3fn),
    "scaled fp8": writers.old_scaled,
    "scaled fp8, by layer": writers.new_scaled,
    "GGUF": partial(writers.gguf, kind="Q5_1"),
    "GGUF in safetensors": partial(writers.qweight, kind="Q8_0"),
    "diffusers": diffusers_folder,
}


@pytest.fixture(scope="module")
def files(comfy) -> dict[str, str]:
    """The entries of the loaders' lists, by format."""
    folder = comfy.models / "diffusion_models" / "packed"
    folder.mkdir(parents=True, exist_ok=True)
    weights, names = tiny_weights("dit.safetensors"), {}
    for quant, write in QUANTS.items():
        path = write(folder, weights)
        names[quant] = f"packed/{path.name}" + ("/" if path.is_dir() else "")
    checkpoints = comfy.models / "checkpoints" / "packed"
    checkpoints.mkdir(parents=True, exist_ok=True)
    shutil.copytree(TINY_WEIGHTS / "t5", checkpoints / "tokenizer", ignore=lambda _, names: {"model.safetensors"})
    others = {part: tiny_weights(f"{part}.safetensors") for part in ("decoder", "encoder")}
    path = writers.all_in_one(checkpoints, weights, **others, t5=tiny_weights("t5"))
    hints = [
        Checkpoint.open(TINY_WEIGHTS / f"{part}.safetensors").metadata["config"] for part in ("decoder", "encoder")
    ]
    merged = json.dumps({key: value for hint in hints for key, value in json.loads(hint).items() if key in KNOWN_HINTS})
    save_file(load_file(path), comfy.models / "checkpoints" / ALL_IN_ONE, {"config": merged})
    return names


# What the shapes of a VAE do not tell, and decoder and encoder have in common.
KNOWN_HINTS = ("groups", "attention_head_dim")


def prompt_for(gpus: str, steps: int = 3, **chosen: str) -> dict:
    """The tiny workflow with other files in its loaders, and its latents saved too."""
    prompt = copy.deepcopy(TINY)
    for number, node in list(prompt.items()):
        inputs, kind = node["inputs"], node["class_type"]
        if kind in chosen:
            inputs["file"] = chosen[kind]
        if "gpus" in inputs:
            inputs["gpus"] = gpus
        if kind == "MochiParallelSampler":
            inputs |= {"steps": steps, "seed": 5}
            saved = {"samples": [number, 0], "filename_prefix": "latents/packed"}
            prompt["99"] = {"class_type": "SaveLatent", "inputs": saved}
    return prompt


def made(comfy, prompt: dict) -> torch.Tensor:
    """The latents of a run, which must have made a video too."""
    paths = comfy.client.run(prompt, timeout=300).paths(comfy.output)
    assert any(path.suffix == ".mp4" and path.stat().st_size for path in paths)
    (file,) = (path for path in paths if path.suffix == ".latent")
    return load_file(file)["latent_tensor"]


# How far the tiny model's latents may be from the published one's: what a format costs. Read wrongly it is above 1.
COST = {"float32": 1e-5, "diffusers": 1e-5, "bfloat16": 0.05, "GGUF in safetensors": 0.1, "GGUF": 0.4}


@pytest.mark.parametrize("quant", QUANTS)
def test_each_format_makes_a_video(comfy, files, quant):
    published = made(comfy, prompt_for("1"))
    one = made(comfy, prompt_for("1", MochiParallelLoadDiT=files[quant]))
    assert relative_error(one, published) < COST.get(quant, 0.5)
    two = made(comfy, prompt_for("2", MochiParallelLoadDiT=files[quant]))
    assert relative_error(two, one) <= 1e-5


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_one_file_for_all_loaders(comfy, files, gpus):
    loaders = ("MochiParallelLoadDiT", "MochiParallelLoadT5", "MochiParallelLoadVAE")
    latents = made(comfy, prompt_for(gpus, **dict.fromkeys(loaders, ALL_IN_ONE)))
    assert relative_error(latents, made(comfy, prompt_for("1", MochiParallelLoadDiT=ALL_IN_ONE))) < 0.01


def test_shards_are_one_entry(comfy, files):
    listed = comfy.client.object_info()["MochiParallelLoadDiT"]["input"]["required"]["file"][1]["options"]
    assert [name for name in listed if "diffusers_layout" in name] == ["packed/diffusers_layout/"]
    assert files["GGUF"] in listed
