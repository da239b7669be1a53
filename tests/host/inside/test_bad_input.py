"""What cannot work is refused with a clear message before anything heavy starts: when it is queued, if possible."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from graphs import complaints
from graphs import whole as graph
from safetensors.torch import save_file

IN_FILE = "in the file itself"


@pytest.fixture(scope="module")
def prompt(call, small):
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    return call("MochiParallelTextEncode", clip=clip, prompt="a red circle")[0]


def test_the_graph_itself_is_fine(small):
    assert complaints(graph(small)) == {}


@pytest.mark.parametrize(
    ("node", "name", "value", "message"),
    [
        ("sampler", "frames", 24, r"frames is 24, but Mochi makes 6k \+ 1 frames .* nearest is 25"),
        ("sampler", "width", 100, "width is 100, but must be a multiple of 16: the nearest is 96"),
        ("sampler", "height", 71, "height is 71, but must be a multiple of 16: the nearest is 64"),
        ("sampler", "steps", 0, "steps is 0, but a run needs at least 1"),
        ("sampler", "steps", 10**7, "steps is 10000000, but can be 1000 at most"),
        ("sampler", "width", 16 * 10**6, "width is 16000000, but can be 16384 at most"),
        ("sampler", "cfg_schedule", "6, 6, 4", "cfg lists 3 values, but the run has 4 steps"),
        ("sampler", "cfg_schedule", "6, six", "cfg is '6, six'"),
        ("save", "filename_prefix", "../outside", "leaves ComfyUI's output folder"),
        ("save", "filename_prefix", "video/../../outside", "leaves ComfyUI's output folder"),
        ("save", "filename_prefix", "/etc/mochi", "leaves ComfyUI's output folder"),
        ("save", "filename_prefix", "", "must end in a name"),
        ("save", "filename_prefix", "video/", "must end in a name"),
        ("save", "format", "avi", "format is 'avi', but must be one of mp4, webm, gif, png"),
        (
            "dit",
            "file",
            "absent.safetensors",
            "no 'absent.safetensors' in models/diffusion_models or models/checkpoints",
        ),
        ("dit", "file", "../../secret.safetensors", "There is no"),
        ("dit", "file", "../vae/small_vae.safetensors", "There is no"),
        ("vae", "file", "absent.safetensors", "no 'absent.safetensors' in models/vae or models/checkpoints"),
        ("vae", "encoder_file", "absent.safetensors", "no 'absent.safetensors' in models/vae"),
        ("t5", "file", "absent/", "no 'absent/' in models/text_encoders"),
    ],
)
def test_refused_when_queued(small, node, name, value, message):
    said = complaints(graph(small, **{f"{node}__{name}": value}))
    assert set(said) == {node}
    assert re.search(message, said[node]), said[node]


def test_widgets_that_are_not_used_are_not_checked(small):
    """A size beside a LATENT, steps beside SIGMAS."""
    changed = graph(small, sampler__frames=24, sampler__latent=["empty", 0])
    changed["empty"] = {
        "class_type": "EmptyMochiLatentVideo",
        "inputs": {"width": 64, "height": 64, "length": 7, "batch_size": 1},
    }
    assert complaints(changed) == {}
    changed = graph(small, sampler__cfg_schedule="1, 2", sampler__sigmas=["sigmas", 0])
    values = {"steps": 2, "threshold_noise": 0.025, "linear_steps": 0, "denoise": 1.0}
    changed["sigmas"] = {"class_type": "MochiParallelSigmas", "inputs": values}
    assert complaints(changed) == {}
    changed["sigmas"]["inputs"]["linear_steps"] = 3
    assert "linear_steps is 3" in complaints(changed)["sigmas"]


@pytest.fixture(scope="module")
def wrong_files(small):
    """Files that are not what a loader wants, by what they are."""
    models = small.models
    shutil.copy(models / "vae" / small.vae, models / "diffusion_models" / "is_vae.safetensors")
    shutil.copy(models / "diffusion_models" / small.dit, models / "vae" / "is_dit.safetensors")
    shutil.copy(models / "diffusion_models" / small.dit, models / "text_encoders" / "is_dit.safetensors")
    shutil.copy(models / "text_encoders" / "small_t5" / "model.safetensors", models / "vae" / "is_t5.safetensors")
    save_file({"lora_unet.lora_down.weight": torch.zeros(2, 2)}, models / "diffusion_models" / "is_lora.safetensors")
    whole = (models / "diffusion_models" / small.dit).read_bytes()
    (models / "diffusion_models" / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (models / "diffusion_models" / "noise.safetensors").write_bytes(b"no weights at all" * 9)
    (models / "diffusion_models" / "pickle.pt").write_bytes(b"PK\x03\x04 something")
    return SimpleNamespace(models=models)


@pytest.mark.parametrize(
    ("node", "name", "file", "message"),
    [
        ("dit", "file", "is_vae.safetensors", "not a Mochi AsymmDiT; it seems to be the Mochi AsymmVAE decoder"),
        ("dit", "file", "is_lora.safetensors", "seems to be a LoRA"),
        ("dit", "file", "cut.safetensors", "cut short or corrupt"),
        ("dit", "file", "noise.safetensors", "cut short or corrupt"),
        ("dit", "file", "pickle.pt", "pickle"),
        ("vae", "file", "is_dit.safetensors", "not a Mochi AsymmVAE decoder; it seems to be the Mochi AsymmDiT"),
        ("vae", "file", "is_t5.safetensors", "seems to be a T5 text encoder"),
        ("vae", "encoder_file", "small_decoder.safetensors", "not a Mochi AsymmVAE encoder"),
        ("t5", "file", "is_dit.safetensors", "not a T5 text encoder; it seems to be the Mochi AsymmDiT"),
    ],
)
def test_wrong_file_is_refused_when_queued(small, wrong_files, node, name, file, message):
    said = complaints(graph(small, **{f"{node}__{name}": file}))
    assert set(said) == {node}
    assert message in said[node], said[node]
    assert file in said[node], "the file is not named"


def test_missing_and_surplus_tensors(call, pack, small):
    stored = pack.module("mochi.checkpoint").Checkpoint.open(small.models / "diffusion_models" / small.dit)
    tensors = {name: entry.read() for name, entry in stored.tensors.items()}
    tensors["blocks.0.surplus"] = torch.zeros(1)
    del tensors["blocks.1.attn.proj_x.weight"]
    save_file(tensors, small.models / "diffusion_models" / "holes.safetensors", metadata=stored.metadata)
    with pytest.raises(ValueError, match=r"holes\.safetensors.*blocks\.1\.attn\.proj_x\.weight.*blocks\.0\.surplus"):
        call("MochiParallelLoadDiT", file="holes.safetensors", dtype="auto")
    said = complaints(graph(small, dit__file="holes.safetensors"))
    assert "blocks.1.attn.proj_x.weight" in said["dit"], "not found before the loader runs"


def test_unknown_choices(call, small):
    with pytest.raises(ValueError, match="dtype is 'int4', but must be one of auto"):
        call("MochiParallelLoadDiT", file=small.dit, dtype="int4")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="tpu")


def test_conditioning_of_another_text_encoder(call, model, prompt, monkeypatch):
    """Refused by our sampler before the model is loaded, and by ComfyUI's before the first step."""
    import comfy.model_management as mm

    wrong = [[torch.zeros(1, 77, 768), {"attention_mask": torch.ones(1, 77)}]]
    (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=1)
    values = {"model": model, "positive": wrong, "negative": prompt, "seed": 1, "steps": 2, "cfg": 4.0}
    with monkeypatch.context() as patch:
        patch.setattr(mm, "load_models_gpu", lambda *a, **k: pytest.fail("the model was loaded"))
        with pytest.raises(ValueError, match="768 wide, but this model reads text features of width 48"):
            call("MochiParallelSampler", **values, width=64, height=48, frames=7)
    names = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    with pytest.raises(ValueError, match="768 wide, but this model reads text features of width 48"):
        call("KSampler", **values, **names, latent_image=latent)


def test_concatenated_prompts(call, model, prompt):
    (joined,) = call("ConditioningConcat", conditioning_to=prompt, conditioning_from=prompt)
    with pytest.raises(ValueError, match="512 tokens and a mask for 256"):
        call("MochiParallelSampler", model=model, positive=joined, negative=prompt, seed=1, steps=2, cfg=4.0, **SIZE)


SIZE = {"width": 64, "height": 48, "frames": 7}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 16, 3, 6, 8), "16 channels"),
        ((1, 4, 6, 8), "4 channels"),
        ((1, 12, 3, 5, 8), "64 x 40 pixels.* multiples of 16"),
    ],
)
def test_latent_of_another_model(call, small, model, prompt, shape, message):
    latent = {"samples": torch.zeros(shape)}
    with pytest.raises(ValueError, match=message):
        call(
            "MochiParallelSampler",
            model=model,
            positive=prompt,
            negative=prompt,
            seed=1,
            steps=2,
            cfg=4.0,
            **SIZE,
            latent=latent,
        )
    if shape[1] == 12:
        return
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")
    for node in ("MochiParallelVAEDecode", "VAEDecode"):
        with pytest.raises(ValueError, match=message):
            call(node, vae=vae, samples=latent)


def test_sigmas_that_do_not_fall(call, model, prompt):
    for sigmas in ([1.0, 0.5, 0.5, 0.0], [0.5, 1.0], [1.0, 0.0, -0.5]):
        values = {"sigmas": torch.tensor(sigmas), "seed": 1, "steps": 2, "cfg": 4.0, **SIZE}
        with pytest.raises(ValueError, match="must fall from step to step"):
            call("MochiParallelSampler", model=model, positive=prompt, negative=prompt, **values)


def test_frames_that_cannot_be_encoded(call, small):
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype="auto")
    with pytest.raises(ValueError, match=r"frames is 24.*nearest is 25"):
        call("MochiParallelVAEEncode", vae=vae, pixels=torch.zeros(24, 48, 64, 3))
    with pytest.raises(ValueError, match=r"width is 50.*nearest is 48"):
        call("MochiParallelVAEEncode", vae=vae, pixels=torch.zeros(7, 48, 50, 3))


def test_models_and_encoders_of_other_kinds(call, prompt, small):
    other = SimpleNamespace(model=SimpleNamespace(), get_model_object=lambda name: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="not a Mochi"):
        call("MochiParallelSampler", model=other, positive=prompt, negative=prompt, seed=1, steps=2, cfg=4.0, **SIZE)

    class OtherClip:
        def tokenize(self, text, **_):
            return {"l": [[(49406, 1.0)] * 77]}

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]

    with pytest.raises(ValueError, match="not a text encoder for Mochi"):
        call("MochiParallelTextEncode", clip=OtherClip(), prompt="a red circle")


def test_output_folder_that_cannot_be_written(pack, small):
    (pack.base / "output" / "taken").write_text("a file where a folder should be")
    said = complaints(graph(small, save__filename_prefix="taken/mochi"))
    assert set(said) == {"save"} and "cannot be written" in said["save"], said
