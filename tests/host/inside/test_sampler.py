"""Our sampler, ComfyUI's samplers and the core's own loop make the same latents on our MODEL."""

import comfy.model_management as mm
import comfy.utils
import numpy as np
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import assert_close

STEPS, CFG, SEED = 6, 4.5, 7
SIZE = {"width": 64, "height": 48, "frames": 13}


@pytest.fixture(scope="module")
def prompts(call, small):
    """Positive and negative of different lengths, the usual case."""
    (clip,) = call("MochiParallelLoadT5", file=small.t5, dtype="auto", device="default")
    return [call("MochiParallelTextEncode", clip=clip, prompt=text)[0] for text in ("a red circle moves left", "")]


def mochi_sampler(call, model, prompts, **inputs):
    values = {"seed": SEED, "steps": STEPS, "cfg": CFG, **SIZE, **inputs}
    return call("MochiParallelSampler", model=model, positive=prompts[0], negative=prompts[1], **values)[0]["samples"]


def k_sampler(call, model, prompts, batch_size=1, **inputs):
    size = {"width": SIZE["width"], "height": SIZE["height"], "length": SIZE["frames"]}
    (latent,) = call("EmptyMochiLatentVideo", **size, batch_size=batch_size)
    values = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "linear_quadratic"}
    values |= {"latent_image": latent, "denoise": 1.0, **inputs}
    return call("KSampler", model=model, positive=prompts[0], negative=prompts[1], **values)[0]["samples"]


def core_sampler(pack, small, prompts, scales, batch=1):
    """The core alone, without ComfyUI."""
    sampling, vae = pack.module("mochi.sampling"), pack.module("mochi.vae")
    dit, config = small.network, pack.module("mochi.config")
    texts = [
        dit.encode_text(features.expand(batch, -1, -1), extra["attention_mask"].bool().expand(batch, -1))
        for ((features, extra),) in prompts
    ]
    cond, uncond = ((lambda z, sigma, text=text: dit(z, sigma, text)) for text in texts)
    shape = pack.module("mochi.geometry").latent_shape(**SIZE, batch=batch)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    with torch.inference_mode():
        steps = sampling.linear_quadratic(len(scales))
        latents = sampling.sample(sampling.guided(cond, uncond, scales), noise, steps)
    return vae.to_vae(latents, config.PREVIEW.latents)


@pytest.mark.parametrize("batch", [1, 2])
def test_equals_ksampler_and_core(call, pack, small, model, prompts, batch):
    ours = mochi_sampler(call, model, prompts, batch_size=batch)
    assert_close(ours, k_sampler(call, model, prompts, batch), 1e-4)
    assert_close(ours, core_sampler(pack, small, prompts, [CFG] * STEPS, batch), 1e-4)


def test_equals_sampler_custom_advanced(call, model, prompts):
    (noise,) = call("RandomNoise", noise_seed=SEED)
    (guider,) = call("CFGGuider", model=model, positive=prompts[0], negative=prompts[1], cfg=CFG)
    (sampler,) = call("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call("MochiParallelSigmas", steps=STEPS, threshold_noise=0.025, linear_steps=0, denoise=1.0)
    (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=13, batch_size=1)
    parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    assert_close(mochi_sampler(call, model, prompts), call("SamplerCustomAdvanced", **parts)[0]["samples"], 1e-4)


def test_cfg_schedule(call, pack, small, model, prompts):
    scales = [6.0, 6.0, 4.0, 2.0, 1.0, 1.0]
    ours = mochi_sampler(call, model, prompts, cfg_schedule=", ".join(map(str, scales)))
    assert_close(ours, core_sampler(pack, small, prompts, scales), 1e-4)


def test_schedule_of_the_distilled_model(call, model, prompts):
    (sigmas,) = call("MochiParallelSigmas", steps=8, threshold_noise=0.1, linear_steps=6, denoise=1.0)
    preset = mochi_sampler(call, model, prompts, steps=8, schedule="distilled")
    assert torch.equal(preset, mochi_sampler(call, model, prompts, steps=8, sigmas=sigmas))
    assert not torch.equal(preset, mochi_sampler(call, model, prompts, steps=8))


@pytest.fixture
def progress(monkeypatch):
    """What the node tells the editor: (value, total, preview) of each step."""
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *told_now, node_id=None: told.append(told_now))
    return told


def test_progress_and_previews(call, model, prompts, progress):
    mochi_sampler(call, model, prompts)
    assert [told[:2] for told in progress] == [(step, STEPS) for step in range(1, STEPS + 1)]
    for _, _, (kind, image, _) in progress:
        assert kind == "JPEG" and image.size == (8, 6)


def test_cancel_stops_within_a_step(call, model, prompts, progress, monkeypatch):
    def cancel_after_two(value, total, preview, node_id=None):
        progress.append(value)
        if value == 2:
            mm.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel_after_two)
        with pytest.raises(mm.InterruptProcessingException):
            mochi_sampler(call, model, prompts)
    assert progress == [1, 2]
    assert model.model.diffusion_model._table is None
    mochi_sampler(call, model, prompts)  # and the next run works
    assert len(progress) == 2 + STEPS


def test_no_negative_pass_at_cfg_1(call, model, prompts):
    passes = []
    clone = model.clone()
    clone.add_wrapper(
        WrappersMP.DIFFUSION_MODEL, lambda executor, *args: passes.append(args[1][0].item()) or executor(*args)
    )
    mochi_sampler(call, clone, prompts, cfg_schedule="6, 6, 1, 1, 1, 1")
    assert len(passes) == 2 * 2 + 4


def test_latent_format_of_other_statistics(pack):
    latents, config, vae = (pack.module(name) for name in ("nodes.host.sockets.latents", "mochi.config", "mochi.vae"))
    torch.manual_seed(0)
    mean, std = torch.randn(12).tolist(), (torch.rand(12) + 0.5).tolist()
    red = ((1.0, 0.0, 0.0), *[(0.0, 0.0, 0.0)] * 11)
    stats = config.LatentStats(tuple(mean), tuple(std), red, (0.0, 0.0, -1.0))
    latent_format = latents.MochiLatents(stats)
    z = torch.randn(1, 12, 3, 4, 6)
    assert_close(latent_format.process_out(z), vae.to_vae(z, stats), 1e-6)
    assert_close(latent_format.process_in(z), vae.to_dit(z, stats), 1e-6)
    image = torch.from_numpy(np.array(pack.module("nodes.host.sampling.preview").preview_image(z, latent_format)))
    assert image.shape == (4, 6, 3)
    assert ((image[..., 0] / 127.5 - 1) - z[0, 0, 1].clamp(-1, 1)).abs().max() < 0.01
    assert (image[..., 1] == 127).all() and (image[..., 2] == 0).all()


def test_built_in_schedule_is_ours(call, model):
    for steps in (1, 2, 8, 64):
        (ours,) = call("MochiParallelSigmas", steps=steps, threshold_noise=0.025, linear_steps=0, denoise=1.0)
        (theirs,) = call("BasicScheduler", model=model, scheduler="linear_quadratic", steps=steps, denoise=1.0)
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-6


def test_sigmas_for_the_distilled_model(call):
    (sigmas,) = call("MochiParallelSigmas", steps=8, threshold_noise=0.1, linear_steps=6, denoise=1.0)
    assert len(sigmas) == 9 and sigmas[6] == pytest.approx(0.9) and sigmas[-1] == 0


def test_nothing_to_do_at_denoise_0(call, model, prompts):
    (sigmas,) = call("MochiParallelSigmas", steps=8, threshold_noise=0.1, linear_steps=6, denoise=0.0)
    assert len(sigmas) == 0
    latent = {"samples": torch.randn(1, 12, 2, 6, 8)}
    assert torch.equal(mochi_sampler(call, model, prompts, latent=latent, sigmas=sigmas), latent["samples"])


def test_the_node_says_how_long_it_takes(call, pack, model, prompts, monkeypatch):
    told, sampling = [], pack.module("nodes.host.sampling.preview")
    clock = iter([50.0] * 2 + [53.0 + 3 * n for n in range(STEPS)])  # loading and the first step took long
    monkeypatch.setattr(sampling.time, "monotonic", lambda: next(clock, 100.0))
    monkeypatch.setattr(sampling, "show_text", told.append)
    report = sampling.on_node(model, STEPS)
    for step in range(STEPS):
        report(step, torch.zeros(1, 12, 1, 2, 2), torch.zeros(1, 12, 1, 2, 2), STEPS)
    assert told[:3] == [
        "step 1 of 6",
        "step 2 of 6 · 3.0 s a step · 0:12 left",
        "step 3 of 6 · 3.0 s a step · 0:09 left",
    ]
    assert told[-1].endswith(" · 0:00 left")
