"""The pipeline: the published procedure, its events, and the files that it is loaded from."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mochi.config import TINY
from mochi.errors import Cancelled, MochiError
from mochi.parallel.protocol import Unload
from mochi.parallel.settings import ParallelSettings
from mochi.pipeline import GenerateSettings, load_pipeline
from mochi.sampling import Watch, linear_quadratic
from mochi.vae import to_vae


def settings(**chosen: object) -> GenerateSettings:
    sizes = {"width": 32, "height": 32, "frames": 7, "steps": 3}
    return GenerateSettings.of(TINY.defaults, **{"prompt": "a red circle", **sizes, **chosen})


def test_other_file_names(model_dir: Path, tmp_path: Path) -> None:
    """ComfyUI's split files: any name, T5 as one file with its tokenizer beside it."""
    (tmp_path / "mochi_preview_bf16.safetensors").symlink_to(model_dir / "dit.safetensors")
    (tmp_path / "mochi_vae.safetensors").symlink_to(model_dir / "decoder.safetensors")
    (tmp_path / "t5xxl_fp16.safetensors").symlink_to(model_dir / "t5" / "model.safetensors")
    (tmp_path / "tokenizer").symlink_to(model_dir / "t5")
    expected = next(load_pipeline(model_dir, device="cpu").generate(settings(seed=1)))
    assert next(load_pipeline(tmp_path, device="cpu").generate(settings(seed=1))).equal(expected)


def test_follows_the_published_procedure(model_dir: Path) -> None:
    """Against the sampler written out: noise from the seed, Euler steps, guidance, statistics, decoder."""
    loaded = load_pipeline(model_dir, device="cpu")
    dit = loaded.denoiser.dit
    chosen = settings(seed=3, cfg=[3.0, 1.0, 2.0], negative="blue")
    with torch.no_grad():
        features, mask = loaded.text(["a red circle", "blue"])
        z = torch.randn((1, 12, 2, 4, 4), generator=torch.manual_seed(3), dtype=torch.float32, device="cpu")
        sigmas = linear_quadratic(3, TINY.defaults.threshold_noise)
        for i, cfg in enumerate(chosen.cfg):
            sigma = torch.tensor([sigmas[i]])
            texts = (dit.encode_text(features[k : k + 1], mask[k : k + 1]) for k in (0, 1))
            flow = [dit(z, sigma, text) for text in texts]
            z = z + (sigmas[i] - sigmas[i + 1]) * (flow[1] + cfg * (flow[0] - flow[1]))
        video = (loaded.decoder.decoder(to_vae(z, loaded.config.latents))[0] + 1) / 2
    frames = torch.cat(list(loaded.generate(chosen)))
    assert frames.shape == (7, 32, 32, 3) and frames.dtype == torch.float32
    torch.testing.assert_close(frames, video.clamp(0, 1).permute(1, 2, 3, 0), rtol=1e-4, atol=1e-4)


def test_empty_prompt_and_bfloat16(model_dir: Path) -> None:
    loaded = load_pipeline(model_dir, torch.bfloat16, "cpu")
    frames = torch.cat(list(loaded.generate(settings(prompt="", seed=0))))
    assert frames.dtype == torch.float32 and frames.isfinite().all()
    assert {p.dtype for p in loaded.denoiser.dit.parameters()} == {torch.bfloat16, torch.float32}


@pytest.mark.parametrize("fails", [False, True])
def test_the_text_encoder_is_on_the_device_only_while_it_encodes(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """What the last video took is given back before it comes, what it took itself when it has gone; its weights stay on
    the CPU all the time. On a device without memory, where only the order of things can be seen."""
    loaded, told = load_pipeline(model_dir, device="cpu"), []
    weights = loaded.text.model.parameters
    before = [p.data_ptr() for p in weights()]

    def encode(*_: object) -> None:
        told.append({p.device.type for p in weights()})
        assert not fails or 1 / 0

    monkeypatch.setattr("mochi.pipeline.pipeline.give_back", lambda device: told.append("give back"))
    monkeypatch.setattr(loaded.text, "encode", encode)
    loaded.text_device = torch.device("meta")
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        loaded.encode(["a red circle", ""])
    assert told == ["give back", {"meta"}, "give back"]
    assert [p.data_ptr() for p in weights()] == before


def test_ranks_give_back_what_they_do_not_use_before_the_text_encoder_comes(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, told = load_pipeline(model_dir, parallel=ParallelSettings("2", cpu=True)), []
    monkeypatch.setattr("mochi.pipeline.pipeline.visiting", lambda *args: told.append("T5 comes") or nullcontext())
    monkeypatch.setattr("mochi.pipeline.pipeline.give_back", lambda device: None)
    monkeypatch.setattr(loaded, "text", lambda prompts: None)
    loaded.text.model = None
    loaded.encode(["a red circle"])  # on a CPU there is nothing to give back
    loaded.text_device = torch.device("meta")
    loaded.encode(["a red circle"])  # nor is there before the ranks have started
    loaded.denoiser._dit.manager._group = SimpleNamespace(alive=True, run=told.append)
    loaded.encode(["a red circle"])
    assert told == ["T5 comes", "T5 comes", Unload(), "T5 comes"]


def test_ranks_work_in_another_folder(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_dir.parent)
    loaded = load_pipeline(model_dir.name, parallel=ParallelSettings("2", cpu=True))
    assert loaded.denoiser._dit.request.path == model_dir / "dit.safetensors"
    assert loaded.decoder._vae.request.decoder == model_dir / "decoder.safetensors"


def test_numbers_out_of_range_are_an_error(model_dir: Path) -> None:
    loaded = load_pipeline(model_dir, device="cpu")
    loaded.denoiser.dit.final_layer.linear.bias.fill_(float("inf"))
    with pytest.raises(MochiError, match="out of the range"):
        next(loaded.generate(settings()))


def test_steps_are_reported_and_can_be_cancelled(model_dir: Path) -> None:
    loaded, steps = load_pipeline(model_dir, device="cpu"), []
    with pytest.raises(Cancelled):
        list(loaded.generate(settings(), Watch(lambda s: steps.append(s.step), lambda: len(steps) == 2)))
    assert steps == [1, 2]
    with pytest.raises(Cancelled):
        list(loaded.generate(settings(), Watch(lambda s: steps.append(s.step), lambda: len(steps) == 5)))
    assert steps == [1, 2, 1, 2, 3]


def test_settings_are_frozen_and_checked() -> None:
    with pytest.raises(AttributeError):
        settings().seed = 1
    assert 0 <= settings().seed < 2**32
    with pytest.raises(MochiError, match="seed"):
        settings(seed=2**64)
    assert settings(steps=None, cfg=None).steps == TINY.defaults.steps


def test_quantised_weights_of_any_file_in_a_directory(model_dir: Path, tmp_path: Path) -> None:
    """GGUF in place of safetensors; computed in float32, as everything is on a CPU."""
    from tests.checkpoint.writers import gguf

    weights = load_file(model_dir / "dit.safetensors")
    gguf(tmp_path, weights, "Q8_0")
    (tmp_path / "decoder.safetensors").symlink_to(model_dir / "decoder.safetensors")
    (tmp_path / "t5").symlink_to(model_dir / "t5")
    loaded = load_pipeline(tmp_path, device="cpu")
    assert loaded.denoiser.dtype == torch.float32
    assert loaded.denoiser.dit.blocks[0].attn.qkv_x.quant.title == "Q8_0"
    assert torch.cat(list(loaded.generate(settings(seed=1)))).isfinite().all()
