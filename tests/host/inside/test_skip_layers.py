"""Skip-layer guidance: our widgets, ComfyUI's nodes and the core make the same, in one process and over ranks."""

from dataclasses import replace

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import assert_close, relative_error

STEPS, CFG = 3, 3.0
STG = {"stg_scale": 1.5, "stg_layers": "1"}
RANGE = {"single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
WITHIN = 1e-6


def guided(call, model, scale=1.5, layers="1", rescaling=0.0):
    """With ComfyUI's own node."""
    values = {"scale": scale, "double_layers": layers, "rescaling_scale": rescaling, **RANGE}
    return call("SkipLayerGuidanceDiT", model=model, **values)[0]


@pytest.fixture(scope="module")
def skip_layers(pack):
    return pack.module("mochi.sampling").SkipLayers


@pytest.fixture(scope="module")
def sigmas(call):
    values = {"steps": STEPS, "threshold_noise": 0.025, "linear_steps": 0, "denoise": 1.0}
    return call("MochiParallelSigmas", **values)[0].tolist()


@pytest.mark.parametrize("layers", ["1", "0, 2"])
def test_equals_three_passes_of_the_core_and_the_hosts_node(
    call, core_run, skip_layers, model, prompts, sigmas, k_sampler, mochi_sampler, layers
):
    numbers = tuple(int(n) for n in layers.split(","))
    expected = core_run(prompts, torch.zeros(1, 12, 2, 6, 8), sigmas, CFG, skip=skip_layers(numbers, 1.5))
    ours = mochi_sampler(model, *prompts, stg_scale=1.5, stg_layers=layers)
    assert_close(ours, expected)
    theirs = guided(call, model, layers=layers)
    assert_close(k_sampler(theirs, *prompts), ours)
    assert_close(mochi_sampler(theirs, *prompts), ours)
    assert relative_error(ours, mochi_sampler(model, *prompts)) > 1e-2


def test_off_by_default(model, mochi_sampler):
    assert torch.equal(mochi_sampler(model, stg_scale=0.0, stg_layers="99"), mochi_sampler(model))


def test_without_a_negative_prompt(core_run, skip_layers, model, prompts, sigmas, mochi_sampler):
    expected = core_run(prompts, torch.zeros(1, 12, 2, 6, 8), sigmas, 1.0, skip=skip_layers((1,), 1.5))
    assert_close(mochi_sampler(model, *prompts, cfg=1.0, **STG), expected)


def test_a_wrapper_that_predicts_twice_gets_the_same(model, mochi_sampler):
    """The pass without layers changes nothing of the next."""
    clone, predictions = model.clone(), []

    def twice(predict, *args, **kwargs):
        made = predict(*args, **kwargs), predict(*args, **kwargs)
        predictions.append(made)
        return made[0]

    clone.add_wrapper(WrappersMP.PREDICT_NOISE, twice)
    mochi_sampler(clone, stg_scale=1.0, stg_layers="1")
    assert predictions and all(torch.equal(*made) for made in predictions)


def test_beside_given_frames(core_run, skip_layers, frames_model, prompts, sigmas, mochi_sampler):
    clip = torch.randn(1, 12, 2, 6, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 1, 2, 6, 8)
    mask[:, :, 0] = 0.2
    expected = core_run(prompts, clip, sigmas, CFG, (0.2, 1.0), skip_layers((1,), 1.5))
    assert_close(mochi_sampler(frames_model, *prompts, latent={"samples": clip, "noise_mask": mask}, **STG), expected)


def test_ours_on_ranks_is_one_request(model, remote, mochi_sampler, requests):
    assert_close(mochi_sampler(remote, **STG), mochi_sampler(model, **STG), WITHIN)
    assert requests == ["Sample"]


@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_the_hosts_node_on_ranks_goes_step_by_step(request, call, model, remote, requests, sampler):
    sample = request.getfixturevalue(sampler)
    one, other = (sample(guided(call, m, rescaling=0.5)) for m in (remote, model))
    assert_close(one, other, WITHIN)
    assert set(requests) == {"Forward"}


def test_the_hosts_simple_node_on_ranks(call, model, remote, k_sampler, requests):
    simple = [call("SkipLayerGuidanceDiTSimple", model=m, double_layers="1, 2", **RANGE)[0] for m in (remote, model)]
    one, other = map(k_sampler, simple)
    assert_close(one, other, WITHIN)
    assert relative_error(one, k_sampler(model)) > 1e-2
    assert set(requests) == {"Forward"}


def test_layers_that_a_model_does_not_have(call, model, remote, k_sampler, mochi_sampler):
    """The host's node passes by them, on ranks too; our widget says so before the model is loaded."""
    one, other = (k_sampler(guided(call, m, layers="1, 7, 8")) for m in (remote, model))
    assert_close(one, other, WITHIN)
    for m in (remote, model):
        with pytest.raises(ValueError, match=r"stg_layers has 34, but the blocks of this model are 0 to 2.*is 2"):
            mochi_sampler(m, stg_scale=1.0, stg_layers="34")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stg_scale": 11.0}, "stg_scale is 11.0, but must be between 0 and 10"),
        ({"stg_scale": float("nan")}, "stg_scale is nan"),
        ({"stg_layers": "34.5"}, "stg_layers is '34.5', but must be the number of a block"),
        ({"stg_layers": ""}, "stg_layers is ''"),
        ({"stg_layers": "-1"}, "stg_layers is '-1'"),
    ],
)
def test_refused_when_queued(pack, change, message):
    check = pack.nodes["MochiParallelSampler"].validate_inputs
    values = {"steps": 4, "width": 64, "height": 64, "frames": 7, "stg_scale": 1.0, "stg_layers": "34"}
    assert check(**values) is True
    assert message in check(**(values | change))
    assert check(**(values | {"stg_scale": 0.0, "stg_layers": "none"})) is True


def test_another_patch_of_a_block_is_refused_by_its_name(remote, k_sampler, mochi_sampler):
    def half(args, extra):
        return {"img": args["img"] * 0.5, "txt": args["txt"]}

    def plain(args, extra):
        return extra["original_block"](args)

    for patch in (half, plain):
        clone = remote.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 1)
        for sample in (k_sampler, mochi_sampler):
            with pytest.raises(ValueError, match=rf"{patch.__name__}.*block 1.*Choose 1 GPU.*skip-layer"):
                sample(clone)
    k_sampler(remote)


def test_a_patch_of_a_part_of_a_block_does_nothing_as_in_one_process(model, remote, k_sampler):
    """ComfyUI's `transformer_index` is a third part of the key, which its Mochi does not know."""
    made = []
    for each in (model, remote):
        clone = each.clone()
        clone.set_model_patch_replace(lambda args, _: args, "dit", "double_block", 1, 0)
        made.append(k_sampler(clone))
    assert_close(*made)


def test_guidance_of_three_over_three_ranks(pack, call, small, groups, mochi_sampler, protocol, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there may not be three GPUs")
    sizes, folder = pack.module("tests.host.inside.small"), small.models / "diffusion_models"
    sizes.write_dit(folder / "three_heads.safetensors", replace(sizes.DIT, num_heads=3, hidden_x=48, hidden_y=24))
    one, three = (call("MochiParallelLoadDiT", file="three_heads.safetensors", dtype="auto", gpus=n)[0] for n in "13")
    told = []
    tell = pack.module("nodes.host.ranks.group")._Teller.tell
    monkeypatch.setattr(
        pack.module("nodes.host.ranks.group")._Teller,
        "tell",
        lambda self, event: told.append(event) or tell(self, event),
    )
    assert_close(mochi_sampler(three, **STG), mochi_sampler(one, **STG), WITHIN)
    splits = {str(event.payload.split) for event in told if isinstance(event.payload, protocol.SplitChosen)}
    assert splits == {"guidance 3 x Ulysses 1"}
