"""Every LoRA format over the API of a running ComfyUI: on the tiny model, plain and quantised, in one process and over
two ranks, by our loader and by ComfyUI's.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi.config import TINY
from mochi.dit import AsymmDiT
from tests.checkpoint import writers
from tests.exact import relative_error
from tests.host.test_parallel_server import status_in
from tests.host.test_quants_server import made, prompt_for, tiny_weights
from tests.peers.diffusers import diffusers_dit

RANK, ALPHA = 4, 2.0
LAYERS = [f"blocks.{i}.attn.{name}" for i in (1, 3) for name in ("qkv_x", "proj_x")]


@pytest.fixture(scope="module")
def factors() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """down (r, in) and up (out, r) of each layer."""
    weights, generator = tiny_weights("dit.safetensors"), torch.Generator().manual_seed(4)
    found = {}
    for layer in LAYERS:
        rows, columns = weights[f"{layer}.weight"].shape
        down, up = torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)
        found[layer] = 0.1 * down, 0.3 * up
    return found


def written_by_peft(folder: Path) -> Path:
    """A LoRA that PEFT and diffusers have made and saved."""
    from peft import LoraConfig

    network = AsymmDiT(TINY.dit)
    network.load_state_dict(tiny_weights("dit.safetensors"))
    theirs = diffusers_dit(network.eval())
    targets = ["to_q", "to_v", "to_out.0", "ff.net.0.proj"]
    torch.manual_seed(0)
    theirs.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, init_lora_weights=False))
    theirs.save_lora_adapter(folder, weight_name="peft.safetensors")
    return folder / "peft.safetensors"


@pytest.fixture(scope="module")
def loras(comfy, factors) -> dict[str, str]:
    """Files by format; the first three say the same."""
    folder = comfy.models / "loras" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    kwargs = {
        f"{kind}_proj_lora_{name}": v for kind in ("qkv", "out") for name, v in (("rank", RANK), ("alpha", ALPHA))
    }
    trainer = {f"{layer}.lora_{k}": t.contiguous() for layer, pair in factors.items() for k, t in zip("AB", pair)}
    save_file(trainer, folder / "trainer.safetensors", {"kwargs": json.dumps(kwargs)})
    kohya = {}
    for layer, (down, up) in factors.items():
        stem = "lora_unet_" + layer.replace(".", "_")
        kohya |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(ALPHA)}
    save_file(kohya, folder / "kohya.safetensors")
    comfy_names = {
        f"diffusion_model.{layer}.lora_{k}.weight": t for layer, p in factors.items() for k, t in zip("AB", p)
    }
    comfy_names |= {f"diffusion_model.{layer}.alpha": torch.tensor(ALPHA) for layer in factors}
    save_file(comfy_names, folder / "comfyui.safetensors")
    written_by_peft(folder)
    return {name: f"tiny/{name}.safetensors" for name in ("trainer", "kohya", "comfyui", "peft")}


@pytest.fixture(scope="module")
def dits(comfy, factors) -> dict[str, str]:
    """The tiny model quantised, and with the LoRA merged into its weights by hand."""
    folder = comfy.models / "diffusion_models" / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    weights = tiny_weights("dit.safetensors")
    packed = writers.gguf(folder, weights, "Q8_0")
    for layer, (down, up) in factors.items():
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + ALPHA / RANK * up @ down
    save_file(weights, folder / "merged.safetensors")
    return {"plain": "tiny (built in)", "packed": f"lora/{packed.name}", "merged": "lora/merged.safetensors"}


def with_lora(prompt: dict, file: str, strength: float, node: str = "MochiParallelLoadLoRA") -> dict:
    """The prompt with a LoRA between the loader and the sampler."""
    loader = next(number for number, entry in prompt.items() if entry["class_type"] == "MochiParallelLoadDiT")
    sampler = next(number for number, entry in prompt.items() if entry["class_type"] == "MochiParallelSampler")
    names = ("file", "strength") if node == "MochiParallelLoadLoRA" else ("lora_name", "strength_model")
    inputs = {"model": [loader, 0], **dict(zip(names, (file, strength)))}
    prompt["98"] = {"class_type": node, "inputs": inputs}
    prompt[sampler]["inputs"]["model"] = ["98", 0]
    return prompt


@pytest.mark.parametrize("gpus", ["1", "2"])
@pytest.mark.parametrize("weights", ["plain", "packed"])
def test_formats_and_strengths(comfy, loras, dits, gpus, weights):
    """Three formats of one LoRA are the same video; none at strength 0; the quantised weights lose nothing of it."""
    base = prompt_for(gpus, MochiParallelLoadDiT=dits[weights])
    none = made(comfy, base)
    results = {
        name: made(comfy, with_lora(prompt_for(gpus, MochiParallelLoadDiT=dits[weights]), file, 1.0))
        for name, file in loras.items()
    }
    for name in ("kohya", "comfyui"):
        assert relative_error(results[name], results["trainer"]) < 1e-5
    assert all(relative_error(result, none) > 0.02 for result in results.values())
    merged = made(comfy, prompt_for("1", MochiParallelLoadDiT=dits["merged"]))
    assert relative_error(results["trainer"], merged) < (1e-5 if weights == "plain" else 0.1)
    half = made(comfy, with_lora(prompt_for(gpus, MochiParallelLoadDiT=dits[weights]), loras["trainer"], 0.5))
    assert relative_error(half, results["trainer"]) > 0.01 and relative_error(half, none) > 0.01
    zero = made(comfy, with_lora(prompt_for(gpus, MochiParallelLoadDiT=dits[weights]), loras["trainer"], 0.0))
    assert torch.equal(zero, none)


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_comfyuis_own_loader(comfy, loras, dits, gpus):
    """The same as ours wherever alpha is beside the factors."""
    for name in ("kohya", "comfyui"):
        theirs = with_lora(prompt_for(gpus), loras[name], 0.7, "LoraLoaderModelOnly")
        assert relative_error(made(comfy, theirs), made(comfy, with_lora(prompt_for(gpus), loras[name], 0.7))) < 1e-5


def test_another_strength_loads_nothing_again(comfy, loras):
    """On the ranks, which count it."""
    counts = []
    for strength in (0.3, 0.9):
        prompt = with_lora(prompt_for("2"), loras["trainer"], strength)
        counts.append(status_in(comfy.client.run(prompt, timeout=300)).loads["dit.safetensors"])
    assert counts[0] == counts[1]


def test_a_lora_of_another_model_is_refused_when_queued(comfy):
    from scripts.client import PromptRejected

    path = comfy.models / "loras" / "tiny" / "flux.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"transformer.single_transformer_blocks.{i}.attn.to_q.lora_{k}.weight" for i in range(3) for k in "AB"]
    save_file({name: torch.ones(4, 4) for name in names}, path)
    with pytest.raises(PromptRejected, match="not for Mochi; it seems to be one for Flux"):
        comfy.client.queue(with_lora(prompt_for("1"), "tiny/flux.safetensors", 1.0))
