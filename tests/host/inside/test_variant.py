"""Which Mochi a file is, and what becomes of given frames with each."""

import comfy.model_base
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from exact import assert_close, relative_error
from safetensors import safe_open
from safetensors.torch import save_file

FRAMES = {"width": 64, "height": 48, "frames": 13}


@pytest.fixture
def said(pack, monkeypatch):
    """What the loader and the sampler show in their nodes."""
    lines = []
    for module in ("nodes.loaders", "nodes.host.sampling.given"):
        monkeypatch.setattr(pack.module(module), "show_text", lines.append)
    return lines


@pytest.fixture(scope="module")
def vae(call, small):
    return call("MochiParallelLoadVAE", file=small.vae, encoder_file="in the file itself", dtype="auto")[0]


@pytest.fixture(scope="module")
def given(call, vae):
    """Mochi Image to Video with a first frame, and one with some noise at the end."""

    def make(**values):
        image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
        links = {"vae": vae, "image": image}
        (latent,) = call("MochiParallelImageToVideo", **links, **FRAMES, **{"frame": 0, "strength": 1.0, **values})
        return latent

    return make


def copied(small, name, metadata):
    folder = small.models / "diffusion_models"
    with safe_open(folder / small.dit, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(weights, folder / name, metadata={**file.metadata(), **metadata})
    return name


@pytest.mark.parametrize(
    ("name", "metadata", "widget", "variant", "told"),
    [
        ("plain.safetensors", {}, "auto", "preview", []),
        ("Pusa_v0_dit.safetensors", {}, "auto", "pusa", ["Pusa_v0_dit.safetensors has it in its name"]),
        ("renamed.safetensors", {"title": "PUSA V0.5"}, "auto", "pusa", ["metadata of renamed.safetensors name Pusa"]),
        ("ours.safetensors", {"variant": "frames"}, "auto", "frames", ["metadata of ours.safetensors say so"]),
        ("made_by_pusa.safetensors", {"variant": "preview"}, "auto", "preview", []),
        ("workflow.safetensors", {"workflow": "pusa" * 100}, "auto", "preview", []),
        ("pusa.safetensors", {}, "preview", "preview", []),
        ("plain.safetensors", {}, "pusa", "pusa", ["variant pusa: chosen"]),
    ],
)
def test_what_the_loader_takes_a_file_for(call, small, said, name, metadata, widget, variant, told):
    (model,) = call("MochiParallelLoadDiT", file=copied(small, name, metadata), dtype="auto", variant=widget)
    assert model.model.variant == variant
    said = [line for line in said if line.startswith("variant ")]
    assert len(said) == len(told) and all(text in line for text, line in zip(told, said))


def test_an_unknown_variant_is_refused(call, small):
    with pytest.raises(ValueError, match="variant is 'v2', but must be one of auto, preview, frames, pusa"):
        call("MochiParallelLoadDiT", file=small.dit, dtype="auto", variant="v2")


def test_pusa_takes_latents_as_the_encoder_gives_them(call, small, core_run, mochi_sampler, prompts, given, said):
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", variant="pusa")
    latent = given()
    values = {"steps": 3, "threshold_noise": 0.025, "linear_steps": 0, "denoise": 1.0}
    sigmas = call("MochiParallelSigmas", **values)[0].tolist()
    made = mochi_sampler(model, *prompts, latent=latent)
    assert_close(made[:, :, 0], latent["samples"][:, :, 0], 1e-6)
    raw, scaled = (core_run(prompts, latent["samples"], sigmas, 3.0, (0.0, 1.0, 1.0), raw=raw) for raw in (True, False))
    assert_close(made[:, :, 1:], raw[:, :, 1:])
    assert relative_error(made[:, :, 1:], scaled[:, :, 1:]) > 1e-3


def test_pusa_with_some_noise_and_in_two_halves(call, small, core_run, prompts, given, mochi_sampler):
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", variant="pusa")
    latent = given(latent=given(), frame=-1, strength=0.6)
    (sigmas,) = call("MochiParallelSigmas", steps=4, threshold_noise=0.025, linear_steps=0, denoise=1.0)
    expected = core_run(prompts, latent["samples"], sigmas.tolist(), 3.0, (0.0, 1.0, 0.4), raw=True)
    made = mochi_sampler(model, *prompts, latent=latent, steps=4)
    assert_close(made[:, :, 1:], expected[:, :, 1:])

    def advanced(start, first, last, noise, rest):
        values = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "linear_quadratic", "noise_seed": 3}
        values |= {"positive": prompts[0], "negative": prompts[1], "latent_image": start, "add_noise": noise}
        values |= {"start_at_step": first, "end_at_step": last, "return_with_leftover_noise": rest}
        return call("KSamplerAdvanced", model=model, **values)[0]

    half = advanced(latent, 0, 2, "enable", "enable")
    assert_close(advanced(half, 2, 10000, "disable", "disable")["samples"], made)


def test_a_plain_checkpoint_does_what_extend_does(call, model, vae, mochi_sampler, given, said):
    latent = given()
    made = mochi_sampler(model, latent=latent)
    assert [line for line in said if "one noise level for all frames" in line]
    assert_close(made[:, :, 0], latent["samples"][:, :, 0], 1e-5)
    said.clear()
    first = {"samples": latent["samples"][:, :, :1]}
    (longer,) = call("MochiParallelExtend", samples=first, frames=13)
    assert_close(made, mochi_sampler(model, latent=longer), 1e-6)
    assert not said


def test_a_plain_checkpoint_keeps_frames_of_any_strength(model, mochi_sampler, given):
    kept = mochi_sampler(model, latent=given())
    assert_close(mochi_sampler(model, latent=given(strength=0.3)), kept, 1e-6)


def test_no_message_where_frames_are_taken(frames_model, mochi_sampler, given, said):
    mochi_sampler(frames_model, latent=given())
    assert not said


@pytest.fixture(scope="module")
def own_model(pack):
    """ComfyUI's own Mochi, with random weights."""
    sizes = {"depth": 1, "num_heads": 4, "hidden_size_x": 96, "hidden_size_y": 48, "patch_size": 2, "in_channels": 12}
    sizes |= {"mlp_ratio_x": 12288 / 96, "mlp_ratio_y": 4.0, "qk_norm": True, "qkv_bias": False, "use_t5": True}
    sizes |= {"t5_feat_dim": 48, "timestep_scale": 1000.0, "learn_sigma": False, "image_model": "mochi_preview"}
    config = comfy.supported_models.GenmoMochi(sizes)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.GenmoMochi(config)
    torch.manual_seed(0)
    pack.module("tests.host.inside.small").randomise(model.diffusion_model)
    cpu = torch.device("cpu")
    return ModelPatcher(model, cpu, cpu)


def test_comfyuis_own_model_beside_our_node(own_model, k_sampler, mochi_sampler, given, said):
    """It keeps given frames as it does with any noise mask, and our sampler says so."""
    latent = given()
    made = mochi_sampler(own_model, latent=latent)
    assert_close(made[:, :, 0], latent["samples"][:, :, 0])
    assert [line for line in said if "one noise level for all frames" in line]
    assert_close(k_sampler(own_model, latent=latent), made)
