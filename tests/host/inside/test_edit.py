"""A clip back to its noise and made anew, in the host: by the core's loops, over one process and over two."""

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from exact import relative_error

STEPS = 4
DRAWN = {"cfg": 4.0, "strength": 0.6, "start": 0.0, "end": 0.5}


@pytest.fixture
def prompts(encode):
    return [encode(text) for text in ("a red circle moves left", "")]


@pytest.fixture
def clip():
    return {"samples": torch.randn(1, 12, 3, 4, 6, generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def edit(call, prompts):
    """Both nodes, one behind the other."""
    positive, negative = prompts

    def run(model, clip, **values):
        noise, sigmas = call(
            "MochiParallelInvert", model=model, positive=positive, latent=clip, steps=values.pop("steps", STEPS)
        )
        links = {"noise": noise, "original": clip, "sigmas": sigmas, "positive": positive, "negative": negative}
        return noise["samples"], call("MochiParallelResample", model=model, **links, **{**DRAWN, **values})[0][
            "samples"
        ]

    return run


def test_it_is_the_loop_of_the_core(pack, small, model, edit, prompts, clip):
    edits, sampling = pack.module("mochi.sampling.edit"), pack.module("mochi.sampling")
    network, sigmas = small.network, sampling.linear_quadratic(STEPS)
    texts = [network.encode_text(features, extra["attention_mask"].bool()) for ((features, extra),) in prompts]
    flows = [lambda z, sigma, text=text: network(z, sigma, text) for text in texts]
    with torch.inference_mode():
        clean = model.model.process_latent_in(clip["samples"])
        found = edits.invert(lambda z, sigma, _: flows[0](z, sigma), clean, sigmas)
        strengths = edits.windowed(DRAWN["strength"], DRAWN["start"], DRAWN["end"], STEPS)
        guided = sampling.guided(*flows, [DRAWN["cfg"]] * STEPS)
        made = sampling.sample(edits.drawn_to(clean, guided, strengths), found, sigmas)
        expected = [model.model.process_latent_out(z) for z in (found, made)]
    for ours, theirs in zip(edit(model, clip), expected, strict=True):
        assert relative_error(ours, theirs) <= 1e-5


def test_full_strength_gives_the_clip_back(model, edit, clip):
    _, made = edit(model, clip, strength=1.0, end=1.0)
    assert relative_error(made, clip["samples"]) <= 1e-5


def test_more_steps_keep_more(model, edit, clip):
    few, many = (relative_error(edit(model, clip, steps=n, cfg=1.0, strength=0.0)[1], clip["samples"]) for n in (2, 32))
    assert many < few / 2


def test_a_step_cache_is_left_out_of_the_way_back(call, model, prompts, clip):
    cached = call("MochiParallelTeaCache", model=model, threshold=1.0, start=0.0, end=1.0)[0]
    plain, ours = (
        call("MochiParallelInvert", model=m, positive=prompts[0], latent=clip, steps=STEPS)[0]["samples"]
        for m in (model, cached)
    )
    assert torch.equal(plain, ours)
    assert "mochi_step_cache" in cached.model_options["transformer_options"]


def test_progress_and_cancel(model, edit, clip, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *now, node_id=None: told.append(now[:2]))
    edit(model, clip)
    assert told == [(n, STEPS) for n in range(1, STEPS + 1)] * 2

    for node in range(2):  # in its second step
        told.clear()

        def cancel(*now, node_id=None, last=node * STEPS + 1):
            told.append(now[:2])
            if len(told) == last:
                mm.interrupt_current_processing()

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(mm.InterruptProcessingException):
            edit(model, clip)
        assert len(told) == node * STEPS + 1


def test_outside_the_mask_the_clip_stays(model, edit, clip):
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 24:] = 1  # the right half of the picture
    clip["noise_mask"] = mask
    _, made = edit(model, clip)
    left, right = ((part, whole) for part, whole in zip(made.chunk(2, -1), clip["samples"].chunk(2, -1), strict=True))
    assert relative_error(*left) <= 1e-5
    assert relative_error(*right) > 0.05


def test_a_schedule_without_steps_changes_nothing(call, model, prompts, clip):
    links = {"noise": clip, "original": clip, "positive": prompts[0], "negative": prompts[1]}
    assert call("MochiParallelResample", model=model, **links, sigmas=torch.zeros(0), **DRAWN)[0] is clip
    with pytest.raises(ValueError, match="must end at 0"):
        call("MochiParallelResample", model=model, **links, sigmas=torch.tensor([1.0, 0.5]), **DRAWN)


def test_noise_of_another_clip_is_refused(call, model, prompts, clip):
    noise, sigmas = call("MochiParallelInvert", model=model, positive=prompts[0], latent=clip, steps=STEPS)
    other = {"samples": clip["samples"][:, :, :2]}
    links = {"noise": noise, "original": other, "sigmas": sigmas, "positive": prompts[0], "negative": prompts[1]}
    with pytest.raises(ValueError, match="must be those of one clip"):
        call("MochiParallelResample", model=model, **links, **DRAWN)


@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two ranks need no GPU, or two")
def test_two_ranks_edit_as_one(remote, model, edit, clip):
    for ours, one in zip(edit(remote, clip), edit(model, clip), strict=True):
        assert relative_error(ours, one) <= 1e-5


@pytest.mark.parametrize(("denoise", "steps"), [(1.0, 6), (0.5, 6), (0.3, 6)])
def test_denoise_is_that_of_ksampler(call, model, prompts, clip, denoise, steps):
    positive, negative = prompts
    links = {"model": model, "positive": positive, "negative": negative}
    values = {"seed": 3, "steps": steps, "cfg": 4.0, "denoise": denoise}
    size = {"width": 64, "height": 64, "frames": 25}
    (ours,) = call("MochiParallelSampler", **links, **values, **size, latent=clip)
    euler = {"sampler_name": "euler", "scheduler": "linear_quadratic", "latent_image": clip}
    (theirs,) = call("KSampler", **links, **values, **euler)
    assert relative_error(ours["samples"], theirs["samples"]) <= 1e-5


def test_denoise_0_changes_nothing(call, model, prompts, clip):
    links = {"model": model, "positive": prompts[0], "negative": prompts[1], "latent": clip}
    values = {"seed": 3, "steps": 6, "cfg": 4.0, "width": 64, "height": 64, "frames": 25}
    assert torch.equal(call("MochiParallelSampler", **links, **values, denoise=0.0)[0]["samples"], clip["samples"])
