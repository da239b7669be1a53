"""TeaCache (Mochi) in ComfyUI's samplers and ours, in this process and over ranks."""

import logging
import re

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import relative_error

STEPS = 10


@pytest.fixture(scope="module")
def cached(call):
    """A MODEL with the cache."""
    return lambda model, threshold, **window: call("MochiParallelTeaCache", model=model, threshold=threshold, **window)[
        0
    ]


@pytest.fixture(scope="module")
def sigmas():
    """So close that random weights see changes like a trained network's."""
    return torch.tensor([*(1 - 3e-4 * k * (1 + k / 4) for k in range(STEPS)), 0.0])


@pytest.fixture(scope="module")
def custom_sampler(call, encode):
    """Latents of SamplerCustom. On a remote model each step is a request."""

    def run(model, sigmas, batch=1, sampler="euler", positive="a red circle", negative=""):
        (latent,) = call("EmptyMochiLatentVideo", width=64, height=48, length=7, batch_size=batch)
        (sampler,) = call("KSamplerSelect", sampler_name=sampler)
        positive, negative = (encode(p) if isinstance(p, str) else p for p in (positive, negative))
        parts = {"positive": positive, "negative": negative, "latent_image": latent, "sampler": sampler}
        parts |= {"sigmas": sigmas, "noise_seed": 3, "cfg": 3.0, "add_noise": True}
        return call("SamplerCustom", model=model, **parts)[0]["samples"]

    return run


@pytest.fixture
def told(caplog):
    """What the log says of caches: (steps computed, steps, passes computed, passes) of each run."""
    caplog.set_level(logging.INFO)

    def found() -> list[tuple[int, ...]]:
        pattern = r"TeaCache: computed (\d+) of (\d+) steps \([^)]*\), (\d+) of (\d+) passes"
        return [tuple(map(int, match)) for match in re.findall(pattern, caplog.text)]

    return found


@pytest.mark.parametrize("where", ["model", "remote"])
def test_threshold_0_changes_no_bit(request, cached, k_sampler, mochi_sampler, told, where):
    model = request.getfixturevalue(where)
    for sampler in (k_sampler, mochi_sampler):
        assert torch.equal(sampler(cached(model, 0.0)), sampler(model))
    assert told() == []
    # The last node counts.
    assert torch.equal(k_sampler(cached(cached(model, 1.0), 0.0)), k_sampler(model))


@pytest.mark.parametrize("where", ["model", "remote"])
def test_computes_fewer_steps(request, cached, k_sampler, mochi_sampler, told, where):
    model = request.getfixturevalue(where)
    for sampler in (k_sampler, mochi_sampler):
        exact, skipping = sampler(model), sampler(cached(model, 1.0))
        assert 0 < relative_error(skipping, exact) < 1
        assert torch.equal(sampler(cached(model, 1.0)), skipping)  # nothing is left of the run before
        assert torch.equal(sampler(model), exact)  # nor in the model
    assert told() == [(2, 3, 4, 6)] * 4
    assert model.model.diffusion_model._cache is None


def test_all_samplers_and_places_skip_the_same_steps(
    cached, custom_sampler, mochi_sampler, model, remote, sigmas, told
):
    runs = [
        run
        for where in (model, remote)
        for run in (
            mochi_sampler(cached(where, 0.06), sigmas=sigmas, batch=2),
            custom_sampler(cached(where, 0.06), sigmas, batch=2),
        )
    ]
    for other in runs[1:]:
        assert relative_error(other, runs[0]) < 1e-4
    assert len(told()) == 4 and len(set(told())) == 1
    computed, steps, _, passes = told()[0]
    assert 2 < computed < steps == STEPS and passes == 2 * 2 * STEPS


def test_only_the_middle_of_the_schedule_is_skipped(cached, mochi_sampler, model, sigmas, told):
    mochi_sampler(cached(model, 1.0, start=0.2, end=0.7), sigmas=sigmas)
    assert told()[0][:2] == (5, STEPS)


def test_whole_run_stays_one_request(cached, mochi_sampler, custom_sampler, remote, sigmas, requests):
    mochi_sampler(cached(remote, 0.06), sigmas=sigmas)
    assert requests == ["Sample"]
    custom_sampler(cached(remote, 0.06), sigmas)
    assert requests[1:] == ["Forward"] * STEPS + ["ForgetRun"]


def test_a_sampler_of_second_order(cached, custom_sampler, model, sigmas, told):
    """Both passes of a step have caches of their own."""
    exact = custom_sampler(model, sigmas, sampler="heun")
    skipping = custom_sampler(cached(model, 0.06), sigmas, sampler="heun")
    assert relative_error(skipping, exact) < 0.1
    _, _, computed, passes = told()[0]
    assert computed < passes == 2 * (2 * STEPS - 1)


def test_areas_do_not_mix(call, cached, custom_sampler, encode, model, sigmas):
    """Two halves of the picture, of one size, with prompts of their own."""
    halves = [
        call("ConditioningSetArea", conditioning=encode(text), width=32, height=48, x=x, y=0, strength=1.0)[0]
        for text, x in (("a red circle", 0), ("a blue square", 32))
    ]
    (both,) = call("ConditioningCombine", conditioning_1=halves[0], conditioning_2=halves[1])
    exact = custom_sampler(model, sigmas, positive=both)
    skipping = custom_sampler(cached(model, 0.06), sigmas, positive=both)
    assert 0 < relative_error(skipping, exact) < 0.1


def test_a_second_pass_with_other_blocks_does_not_take_the_first_ones_change(cached, custom_sampler, model, sigmas):
    """As skip-layer guidance makes it, with the same prompt at the same level."""
    from comfy.samplers import calc_cond_batch

    seen = []

    def again(args):
        options = {**args["model_options"]["transformer_options"]}
        options["patches_replace"] = {"dit": {("double_block", 1): lambda inputs, _: inputs}}
        changed = {**args["model_options"], "transformer_options": options}
        (other,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], changed)
        seen.append(relative_error(args["cond_denoised"], other))
        return args["denoised"]

    clone = cached(model, 1.0)
    clone.set_model_sampler_post_cfg_function(again)
    custom_sampler(clone, sigmas)
    assert len(seen) == STEPS and min(seen) > 1e-4


def test_freed_when_a_run_is_cut_off(cached, mochi_sampler, model, remote):
    class CutOff(Exception):
        pass

    def fail_at_third(executor, *args):
        passes.append(1)
        if len(passes) == 3:
            raise CutOff
        return executor(*args)

    for where in (model, remote):
        passes = []
        clone = cached(where, 1.0)
        clone.add_wrapper(WrappersMP.DIFFUSION_MODEL, fail_at_third)
        with pytest.raises(CutOff):
            mochi_sampler(clone, steps=6)
        network = where.model.diffusion_model
        assert network._cache is None and not getattr(network, "_is_cached", False)


def test_refuses_other_networks(pack, call, model):
    error = pack.module("mochi.errors").MochiError
    builtin = model.clone()
    builtin.add_object_patch("diffusion_model", torch.nn.Module())
    with pytest.raises(error, match="not a Mochi"):
        call("MochiParallelTeaCache", model=builtin, threshold=0.06)
    network = torch.nn.Module()
    network.t5_yproj = torch.nn.Linear(48, 32)
    builtin.add_object_patch("diffusion_model", network)
    with pytest.raises(error, match="ComfyUI's own Mochi"):
        call("MochiParallelTeaCache", model=builtin, threshold=0.06)


def test_refuses_fractions_the_wrong_way_round(pack):
    node = pack.nodes["MochiParallelTeaCache"]
    assert "must be between 0 and 1" in node.validate_inputs(threshold=float("nan"))
    assert "start is 0.5 and end 0.2" in node.validate_inputs(threshold=0.1, start=0.5, end=0.2)
    assert node.validate_inputs(threshold=0.1) is True
    assert node.validate_inputs(threshold=None, start=0.5, end=0.7) is True
