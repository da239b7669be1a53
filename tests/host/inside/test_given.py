"""Given frames, each with a noise level of its own: our sampler, ComfyUI's samplers and the core make the same."""

from itertools import pairwise

import comfy.k_diffusion.sampling as solvers
import comfy.model_management as mm
import comfy.utils
import nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import assert_close, relative_error

STEPS, CFG, SEED = 3, 3.0, 3
LEVELS = (0.0, 1.0, 0.3, 1.0)  # of the noise: kept, free, given with some noise, free
T, SIZE = 4, (6, 8)


def clip(batch=1):
    return torch.randn(batch, 12, T, *SIZE, generator=torch.Generator().manual_seed(1))


def latent(levels=LEVELS, batch=1, free=0.0):
    """A LATENT as image-to-video nodes make it. free: how much of a clip its free frames have."""
    each = torch.tensor(levels)[:, None, None]
    samples = torch.where(each == 1, free * clip(batch), clip(batch))
    return {"samples": samples, "noise_mask": each.expand(1, 1, T, *SIZE).clone()}


@pytest.fixture(scope="module")
def sigmas(call):
    return call("MochiParallelSigmas", steps=STEPS, threshold_noise=0.025, linear_steps=0, denoise=1.0)[0]


@pytest.fixture(scope="module")
def custom(call, frames_model, prompts, sigmas):
    """A sampler of ComfyUI."""

    def run(given, sampler="euler", model=frames_model, **sampler_node):
        if isinstance(sampler, str):
            (sampler,) = call("KSamplerSelect", sampler_name=sampler)
        values = {"add_noise": True, "noise_seed": SEED, "cfg": CFG, "positive": prompts[0], "negative": prompts[1]}
        values |= {"sampler": sampler, "sigmas": sigmas, "latent_image": given}
        return call("SamplerCustom", model=model, **values)[0]["samples"]

    return run


@pytest.fixture(scope="module")
def ours(mochi_sampler, frames_model, prompts):
    return lambda given, model=frames_model, **inputs: mochi_sampler(model, *prompts, latent=given, **inputs)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("levels", [LEVELS, (0.0, 1.0, 1.0, 0.0), (0.4, 0.0, 0.9, 1.0)])
def test_equals_the_core(core_run, ours, custom, prompts, sigmas, levels, batch):
    given = latent(levels, batch)
    expected = core_run(prompts, given["samples"], sigmas.tolist(), CFG, levels)
    assert_close(ours(given), expected)
    assert_close(custom(given), expected)


def test_equals_ksampler(call, ours, frames_model, prompts):
    given = latent()
    values = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "linear_quadratic"}
    values |= {"positive": prompts[0], "negative": prompts[1], "latent_image": given, "denoise": 1.0}
    assert_close(call("KSampler", model=frames_model, **values)[0]["samples"], ours(given))


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "ipndm"])
def test_other_samplers_solve_it_frame_by_frame(pack, small, custom, prompts, sigmas, name):
    solved = pack.module("tests.host.inside.core_run").solved
    given, solver = latent(), getattr(solvers, f"sample_{name}")
    expected = solved(solver, small.network, prompts, given["samples"], sigmas.tolist(), CFG, LEVELS)
    assert_close(custom(given, name), expected)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_kept_frames_come_out_as_given(custom, ours, sampler):
    given = latent()
    for made in (custom(given, sampler), ours(given)):
        assert_close(made[:, :, 0], given["samples"][:, :, 0], 1e-6)
        assert relative_error(made[:, :, 2], given["samples"][:, :, 2]) > 0.01


@pytest.mark.parametrize("levels", [LEVELS, (0.4, 0.0, 0.9, 1.0)])
def test_a_run_in_two_halves(call, frames_model, prompts, levels):
    def advanced(given, start, end, noise, rest):
        values = {"steps": 4, "cfg": CFG, "sampler_name": "euler", "scheduler": "linear_quadratic", "noise_seed": SEED}
        values |= {"positive": prompts[0], "negative": prompts[1], "latent_image": given, "add_noise": noise}
        values |= {"start_at_step": start, "end_at_step": end, "return_with_leftover_noise": rest}
        return call("KSamplerAdvanced", model=frames_model, **values)[0]

    whole = advanced(latent(levels), 0, 10000, "enable", "disable")
    half = advanced(latent(levels), 0, 2, "enable", "enable")
    assert_close(advanced(half, 2, 10000, "disable", "disable")["samples"], whole["samples"])


def test_part_of_a_clip_is_made_anew(call, core_run, custom, ours, prompts):
    """Below denoise 1 free frames keep something of the clip too."""
    values = {"steps": STEPS, "threshold_noise": 0.025, "linear_steps": 0}
    (late,) = call("MochiParallelSigmas", **values, denoise=0.5)
    assert late[0] < 1
    given = latent(free=1.0)
    expected = core_run(prompts, given["samples"], late.tolist(), CFG, LEVELS)
    assert_close(ours(given, denoise=0.5), expected)
    assert_close(ours(given, sigmas=late), expected)


def test_a_cfg_for_each_step(core_run, ours, prompts, sigmas):
    given = latent()
    expected = core_run(prompts, given["samples"], sigmas.tolist(), [6.0, 2.0, 1.0], LEVELS)
    assert_close(ours(given, cfg_schedule="6, 2, 1"), expected)


def test_an_area_beside_given_frames(call, pack, small, custom, ours, prompts, sigmas):
    given = latent(free=1.0)
    record = pack.module("nodes.host.sampling.given").GivenFrames({0: 0, 2: 7}, given["samples"])
    given["mochi_given"] = record
    right = torch.zeros(1, SIZE[0] * 8, SIZE[1] * 8)
    right[..., 32:] = 1
    (masked,) = call("MochiParallelNoiseMask", samples=given, mask=right)
    area = (torch.arange(SIZE[1]) >= 4).float().expand(1, 1, T, *SIZE).clone()
    area[:, :, 0] = 0
    solved = pack.module("tests.host.inside.core_run").solved
    expected = solved(
        solvers.sample_euler, small.network, prompts, given["samples"], sigmas.tolist(), CFG, LEVELS, area
    )
    for made in (custom(masked), ours(masked)):
        assert_close(made, expected)
        assert_close(made[..., :4], given["samples"][..., :4])


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "lcm", "er_sde"])
def test_samplers_that_add_noise_are_refused_beside_frames_with_some(frames_model, custom, name, monkeypatch):
    monkeypatch.setattr(frames_model.model, "apply_model", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(ValueError, match=rf"{name}, which adds noise at each step.*euler, heun, dpmpp_2m"):
        custom(latent(), name)


def test_areas_whose_noise_ddim_renews(call, frames_model, custom, monkeypatch):
    """Kept frames are clean in each step; of frames with less noise it is refused."""
    (ddim,) = call("KSamplerSelect", sampler_name="ddim")

    def with_area(levels):
        given = latent(levels, free=1.0)
        given["noise_mask"][..., :4] *= torch.tensor(levels)[:, None, None] < 1  # the left of free frames stays
        given["noise_mask"][:, :, 2, :, :4] *= 0
        return given

    given = with_area((0.0, 1.0, 1.0, 1.0))
    model, seen = seen_by(frames_model)
    made = custom(given, ddim, model=model)
    for z, _ in seen:
        assert_close(z[:1, :, 0], frames_model.model.process_latent_in(given["samples"])[:, :, 0], 1e-5)
    assert_close(made[:, :, 1:, :, :4], given["samples"][:, :, 1:, :, :4])
    monkeypatch.setattr(frames_model.model, "apply_model", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(ValueError, match="ddim, which adds noise"):
        custom(with_area(LEVELS), ddim)


def test_a_sampler_that_adds_noise_without_saying_so(call, frames_model, custom):
    (upscaling,) = call("SamplerLCMUpscale", scale_ratio=1.0, scale_steps=-1, upscale_method="bilinear")
    with pytest.raises(ValueError, match="lcm_upscale, which adds noise"):
        custom(latent(), upscaling)
    given = latent((0.0, 1.0, 1.0, 1.0))
    model, seen = seen_by(frames_model)
    custom(given, upscaling, model=model)
    for z, _ in seen:
        assert_close(z[:1, :, 0], frames_model.model.process_latent_in(given["samples"])[:, :, 0], 1e-5)


def test_a_wrapper_that_is_there_twice(pack, frames_model, custom):
    """Merged options of two clones have it twice."""
    clone = frames_model.clone()
    pack.module("nodes.host.sockets.given").give_frames_levels(clone)
    assert_close(custom(latent(), model=clone), custom(latent()), 1e-6)


def ancestral(model, x, sigmas, disable):
    """Euler steps of a flow to below the next level, and noise up to it."""
    noise = solvers.default_noise_sampler(x, seed=SEED)
    for sigma, following in pairwise(sigmas):
        clean = model(x, sigma.expand(len(x)))
        below = following**2 / sigma
        x = clean + (x - clean) * below / sigma
        if following > 0:
            scale = (1 - following) / (1 - below)
            x = scale * x + noise(sigma, following) * (following**2 - (scale * below) ** 2).sqrt()
    return x


def test_samplers_that_add_noise_beside_frames_that_stay(pack, small, custom, prompts, sigmas):
    levels = (0.0, 1.0, 1.0, 0.0)
    given, solved = latent(levels), pack.module("tests.host.inside.core_run").solved
    run = ancestral, small.network, prompts, given["samples"], sigmas.tolist(), CFG, levels, given["noise_mask"]
    assert_close(custom(given, "euler_ancestral"), solved(*run))


def test_those_that_could_and_do_not_are_fine(call, custom):
    (still,) = call("SamplerEulerAncestral", eta=0.0, s_noise=1.0)
    assert_close(custom(latent(), still), custom(latent()))
    (ode,) = call("SamplerER_SDE", solver_type="ODE", max_stage=1, eta=1.0, s_noise=1.0)
    assert_close(custom(latent(), ode)[:, :, 0], latent()["samples"][:, :, 0], 1e-6)
    assert_close(custom(latent(), "res_multistep")[:, :, 0], latent()["samples"][:, :, 0], 1e-6)


def test_a_mask_that_the_host_resizes_gives_no_frame(call, custom):
    """It is 1 everywhere but for rounding."""
    free = {"samples": clip()}
    (masked,) = call("SetLatentNoiseMask", samples=free, mask=torch.ones(1, 47, 61))
    assert_close(custom(masked, "euler_ancestral"), custom(free, "euler_ancestral"))


def test_masks_of_other_nodes_say_the_same(call, custom, ours):
    """ComfyUI's convention for given frames: noise_mask = 1 - strength, here a solid picture for each frame."""
    frames = []
    for level in LEVELS:
        (solid,) = call("SolidMask", value=level, width=SIZE[1], height=SIZE[0])
        frames.append(call("MaskToImage", mask=solid)[0])
    images = frames[0]
    for other in frames[1:]:
        (images,) = call("ImageBatch", image1=images, image2=other)
    (mask,) = call("ImageToMask", image=images, channel="red")
    given = latent()
    (masked,) = call("SetLatentNoiseMask", samples={"samples": given["samples"]}, mask=mask)
    assert masked["noise_mask"].shape != given["noise_mask"].shape
    assert_close(custom(masked), custom(given), 1e-6)
    assert_close(ours(masked), ours(given), 1e-6)


def windows(call, model, length, **more):
    node = nodes.NODE_CLASS_MAPPINGS["ContextWindowsManual"]
    known = {i.id: getattr(i, "default", None) for i in node.define_schema().inputs}
    values = {"context_length": length, "context_overlap": 1, "dim": 2, "context_schedule": "standard_static"}
    values |= {"fuse_method": "pyramid", "context_stride": 1, "closed_loop": False, **more}
    return call("ContextWindowsManual", model=model, **{k: v for k, v in {**known, **values}.items() if k != "model"})[
        0
    ]


def seen_by(model):
    """A clone, and the latents that its network gets."""
    seen, clone = [], model.clone()
    clone.add_wrapper(WrappersMP.DIFFUSION_MODEL, lambda run, *args: seen.append(args[:2]) or run(*args))
    return clone, seen


def test_context_windows(call, frames_model, custom, ours):
    given = latent()
    assert_close(custom(given, model=windows(call, frames_model, T)), custom(given))
    model, seen = seen_by(frames_model)
    made = custom(given, model=windows(call, model, 3))
    assert_close(made, ours(given, model=windows(call, model, 3)))
    assert_close(made[:, :, 0], given["samples"][:, :, 0], 1e-6)
    levels = {tuple((10 * sigma[0] / sigma.max()).round().tolist()) for _, sigma in seen}
    second = (10.0, 3.0, 10.0)  # newer hosts put the frame before it in front
    assert levels in ({(0.0, 10.0, 3.0), second}, {(0.0, 10.0, 3.0), (0.0, *second)})


def test_windows_that_shuffle_noise(call, frames_model, custom):
    """The noise of the free frames is theirs to shuffle; a given frame stays where it is."""
    try:
        model, seen = seen_by(frames_model)
        model = windows(call, model, 3, freenoise=True)
    except TypeError:
        pytest.skip("this host has no such widget")
    levels = (1.0, 1.0, 1.0, 0.0)
    custom(latent(levels), model=model)
    plain, expected = seen_by(frames_model)
    custom(latent(levels), model=plain)
    assert_close(seen[-1][0][:1, :, -1], expected[-1][0][:1, :, -1])


def test_progress_previews_and_cancel(frames_model, ours, custom, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *now, node_id=None: told.append(now))
    ours(latent())
    assert [now[:2] for now in told] == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert all(kind == "JPEG" and image.size == (8, 6) for _, _, (kind, image, _) in told)

    def cancel_after_two(value, total, preview, node_id=None):
        if value == 2:
            mm.interrupt_current_processing()

    expected = ours(latent())
    for run in (ours, custom):
        with monkeypatch.context() as patch:
            patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel_after_two)
            with pytest.raises(mm.InterruptProcessingException):
                run(latent())
    assert_close(ours(latent()), expected)


def test_a_node_that_hands_on_some_frames_is_refused(frames_model, custom):
    def some(executor, x, *args, **kwargs):
        return torch.cat((executor(x[:, :, :2], *args, **kwargs), executor(x[:, :, 2:], *args, **kwargs)), dim=2)

    clone = frames_model.clone()
    clone.add_wrapper(WrappersMP.APPLY_MODEL, some)
    with pytest.raises(ValueError, match="2 of 4 latent frames"):
        custom(latent(), model=clone)
