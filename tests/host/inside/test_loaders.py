"""The loaders: what they list, and what they load."""

import pytest
import torch

TINY, IN_FILE = "tiny (built in)", "in the file itself"


@pytest.fixture
def options(pack):
    """The entries of a loader's list."""
    return lambda node, name: pack.nodes[node].INPUT_TYPES()["required"][name][1]["options"]


def test_lists(options, small):
    """The built-in model first; a Hugging Face folder with one model is one entry, without its file."""
    texts = options("MochiParallelLoadT5", "file")
    assert texts[0] == TINY and small.t5 in texts
    assert not [name for name in texts if name.startswith("small_t5/") and name != small.t5]
    for node, name in (("MochiParallelLoadDiT", small.dit), ("MochiParallelLoadVAE", small.vae)):
        assert options(node, "file")[0] == TINY and name in options(node, "file")
    assert options("MochiParallelLoadVAE", "encoder_file")[:2] == [IN_FILE, TINY]


def test_checkpoints_folder_and_subfolders(call, options, small):
    (small.models / "checkpoints").mkdir(exist_ok=True)
    (small.models / "diffusion_models" / "mochi").mkdir(exist_ok=True)
    weights = (small.models / "diffusion_models" / small.dit).read_bytes()
    (small.models / "checkpoints" / "from_checkpoints.safetensors").write_bytes(weights)
    (small.models / "diffusion_models" / "mochi" / "dit.safetensors").write_bytes(weights)
    for name in ("from_checkpoints.safetensors", "mochi/dit.safetensors"):
        assert name in options("MochiParallelLoadDiT", "file")
        call("MochiParallelLoadDiT", file=name, dtype="auto")


def test_names_are_the_published_ones(call, small):
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto")
    names = set(model.model.diffusion_model.state_dict())
    assert names == set(small.network.state_dict())
    assert {"blocks.0.attn.qkv_x.weight", "pos_frequencies", "t5_y_embedder.to_kv.bias"} <= names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(call, small, dtype):
    name = str(dtype).removeprefix("torch.")
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype=name)
    (vae,) = call("MochiParallelLoadVAE", file=small.vae, encoder_file=IN_FILE, dtype=name)
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype=name, device="default")
    assert model.model_dtype() == dtype
    assert vae.vae_dtype == dtype and {p.dtype for p in vae.first_stage_model.parameters()} == {dtype}
    assert clip.cond_stage_model.t5xxl.transformer.shared.weight.dtype == dtype


def test_a_linked_file_name_is_not_checked(pack):
    """It has no value before the graph runs."""
    assert pack.nodes["MochiParallelLoadDiT"].validate_inputs(file=None) is True
    assert pack.nodes["MochiParallelLoadVAE"].validate_inputs(file=None, encoder_file=TINY) is True
    assert pack.nodes["MochiParallelSigmas"].validate_inputs(steps=None, threshold_noise=0.1, linear_steps=0) is True
    assert pack.nodes["MochiParallelSaveVideo"].validate_inputs(filename_prefix=None) is True
    sizes = {"width": None, "height": 64, "frames": None, "cfg_schedule": None}
    assert pack.nodes["MochiParallelSampler"].validate_inputs(steps=None, **sizes) is True


def test_built_in_model(call, pack):
    """Text to frames with what comes with the pack."""
    weights = pack.module("mochi.config").TINY_WEIGHTS
    if not (weights / "dit.safetensors").is_file():
        pytest.skip("the built-in weights are not there")
    (clip,) = call("MochiParallelLoadT5", file=TINY, dtype="auto", device="default")
    (model,) = call("MochiParallelLoadDiT", file=TINY, dtype="auto")
    (vae,) = call("MochiParallelLoadVAE", file=TINY, encoder_file=IN_FILE, dtype="auto")
    prompts = [call("MochiParallelTextEncode", clip=clip, prompt=text)[0] for text in ("a red circle moves left", "")]
    names = dict(zip(("positive", "negative"), prompts))
    values = {"seed": 1, "steps": 4, "cfg": 4.0, "width": 64, "height": 64, "frames": 25}
    (latent,) = call("MochiParallelSampler", model=model, **names, **values)
    (frames,) = call("MochiParallelVAEDecode", vae=vae, samples=latent)
    assert frames.shape == (25, 64, 64, 3)
    (again,) = call("MochiParallelVAEEncode", vae=vae, pixels=frames)
    assert again["samples"].shape == latent["samples"].shape == (1, 12, 5, 8, 8)
    stats = pack.module("mochi.config").TINY.latents
    assert torch.allclose(model.get_model_object("latent_format").latents_std.flatten(), torch.tensor(stats.std))
