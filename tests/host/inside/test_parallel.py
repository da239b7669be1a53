"""A MODEL over two ranks among ComfyUI's own nodes: the same results as in one process."""

import gc
import re
import weakref

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from exact import assert_close

STEPS, CFG, SEED = 3, 3.0, 3
SIZE = {"width": 64, "height": 48}


@pytest.mark.parametrize("negative", ["", "a blue square moves left on black"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_equals_one_process(model, remote, k_sampler, mochi_sampler, batch, negative):
    expected = k_sampler(model, negative=negative, batch=batch)
    assert_close(k_sampler(remote, negative=negative, batch=batch), expected)
    assert_close(mochi_sampler(remote, negative=negative, batch=batch), expected)
    assert_close(mochi_sampler(model, negative=negative, batch=batch), expected)


def test_custom_sampler(call, model, remote, encode):
    def run(model):
        (noise,) = call("RandomNoise", noise_seed=SEED)
        (guider,) = call("CFGGuider", model=model, positive=encode("a red"), negative=encode(""), cfg=CFG)
        (sampler,) = call("KSamplerSelect", sampler_name="dpmpp_2m")
        (sigmas,) = call("MochiParallelSigmas", steps=STEPS, threshold_noise=0.025, linear_steps=0, denoise=1.0)
        (latent,) = call("EmptyMochiLatentVideo", **SIZE, length=7, batch_size=1)
        parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        return call("SamplerCustomAdvanced", **parts)[0]["samples"]

    assert_close(run(remote), run(model))


def test_cfg_schedule(model, remote, mochi_sampler):
    for schedule in ("6, 2, 1", "1, 1, 1"):
        assert_close(*(mochi_sampler(m, cfg_schedule=schedule) for m in (remote, model)))


def test_a_run_is_one_request_and_a_step_is_another(remote, k_sampler, mochi_sampler, requests):
    mochi_sampler(remote)
    assert requests == ["Sample"]
    requests.clear()
    k_sampler(remote, negative="a blue square moves left on black")  # both prompts in one pass
    assert requests == ["Forward"] * STEPS


def test_prompts_of_one_conditioning_can_differ(model, remote, encode, k_sampler, mochi_sampler):
    prompts = [encode("a red circle"), encode("a blue square moves left on black")]
    features = torch.cat([cond[0][0] for cond in prompts])
    masks = torch.cat([cond[0][1]["attention_mask"] for cond in prompts])
    both = [[features, {**prompts[0][0][1], "attention_mask": masks}]]
    expected = k_sampler(model, both, batch=2)
    assert_close(k_sampler(remote, both, batch=2), expected)
    assert_close(mochi_sampler(remote, both, batch=2), expected)


def test_what_the_host_adds_to_a_step(call, model, remote, encode, k_sampler, mochi_sampler, requests):
    """Areas (with odd sides), masks, time ranges and strengths go step by step, and give the same."""
    red, blue = encode("a red circle"), encode("a blue square")
    area = call("ConditioningSetArea", conditioning=blue, width=24, height=40, x=8, y=8, strength=1.0)[0]
    mask = torch.zeros(1, 6, 8)
    mask[..., 4:] = 1
    masked = call("ConditioningSetMask", conditioning=blue, mask=mask, strength=0.7, set_cond_area="default")[0]
    early = call("ConditioningSetTimestepRange", conditioning=blue, start=0.0, end=0.5)[0]
    for other in (area, masked, early, blue):
        (combined,) = call("ConditioningCombine", conditioning_1=red, conditioning_2=other)
        expected = k_sampler(model, combined)
        assert_close(k_sampler(remote, combined), expected)
        assert_close(mochi_sampler(remote, combined), expected)
    assert "Sample" not in requests


def test_noise_mask(call, model, remote, mochi_sampler):
    torch.manual_seed(1)
    latent = {"samples": torch.randn(1, 12, 2, 6, 8), "noise_mask": torch.zeros(1, 1, 2, 6, 8)}
    latent["noise_mask"][..., 3:] = 1
    (sigmas,) = call("MochiParallelSigmas", steps=STEPS, threshold_noise=0.025, linear_steps=0, denoise=0.5)
    ours, theirs = (mochi_sampler(m, latent=latent, sigmas=sigmas) for m in (remote, model))
    assert_close(ours, theirs)
    assert_close(ours[..., :3], latent["samples"][..., :3])


def test_model_options_are_not_passed_by(model, remote, mochi_sampler, k_sampler):
    """Functions that nodes put on a MODEL are called, and object patches and wrappers are heeded."""
    seen = []

    def post_cfg(args):
        seen.append(1)
        return args["denoised"] * 0.9

    for one in (model, remote):
        clone = one.clone()
        clone.set_model_sampler_post_cfg_function(post_cfg)
        clone.add_wrapper(WrappersMP.DIFFUSION_MODEL, lambda executor, *args: seen.append(2) or executor(*args))
        assert_close(mochi_sampler(clone), k_sampler(clone))
    assert seen.count(1) == 4 * STEPS and seen.count(2) >= 4 * STEPS


def test_compiled(remote, k_sampler):
    """There is nothing to compile, and nothing breaks."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    clone = remote.clone()
    set_torch_compile_wrapper(clone, backend="eager")
    assert_close(k_sampler(clone), k_sampler(remote))


@pytest.mark.parametrize("guidance, ulysses, weights", [("1", 2, "auto"), ("2", 1, "sharded"), ("1", 0, "sharded")])
def test_settings(call, small, model, k_sampler, mochi_sampler, guidance, ulysses, weights):
    values = {"guidance": guidance, "ulysses": ulysses, "weights": weights, "timeout": 600.0}
    (settings,) = call("MochiParallelSettings", gpus="2", **values)
    (one,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", gpus="1", parallel=settings)
    expected = k_sampler(model)
    assert_close(mochi_sampler(one), expected)
    assert_close(k_sampler(one), expected)


def test_settings_that_cannot_be(call, small, pack):
    validate = pack.nodes["MochiParallelSettings"].validate_inputs
    good = {"gpus": "2", "guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": 600.0}
    assert validate(**good) is True
    for change in ({"gpus": "two"}, {"guidance": "4"}, {"weights": "some"}, {"timeout": 0.0}):
        assert next(iter(change)) in validate(**(good | change))
    assert "gpus" in pack.nodes["MochiParallelLoadDiT"].validate_inputs(file=small.dit, gpus="many")
    assert pack.nodes["MochiParallelLoadDiT"].validate_inputs(file=small.dit, gpus="many", parallel=None) is True
    (settings,) = call("MochiParallelSettings", **(good | {"guidance": "2", "ulysses": 2}))
    with pytest.raises(ValueError, match="cannot be split"):
        call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=settings)


def test_another_timeout_takes_turns(call, small, groups, remote, k_sampler):
    values = {"gpus": "2", "guidance": "auto", "ulysses": 0, "weights": "auto"}
    (settings,) = call("MochiParallelSettings", **values, timeout=300.0)
    (other,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", parallel=settings)
    expected = k_sampler(remote)
    first = groups.running
    assert_close(k_sampler(other), expected)
    assert groups.running is not first and first.group is None
    assert_close(k_sampler(remote), expected)
    assert groups.running is first


def test_unload_releases_and_the_next_use_reloads(remote, k_sampler, groups, protocol):
    expected, loads = k_sampler(remote), remote.remote.loads
    pids, size = groups.running.use().pids, remote.model_size()
    assert size > 0 and remote.loaded_size() == size
    mm.unload_all_models()
    assert not remote.remote.loaded and remote.loaded_size() == 0 and remote.model_size() > 0
    assert all(not status.models for status in groups.running.use().run(protocol.GetStatus()))
    assert_close(k_sampler(remote), expected)
    assert remote.remote.loads == loads + 1 and groups.running.use().pids == pids


def test_a_dropped_model_is_released(call, small, groups, k_sampler, protocol):
    (model,) = call("MochiParallelLoadDiT", file=small.dit, dtype="auto", gpus="2")
    k_sampler(with_clone := model.clone())
    name, gone = model.remote.name, weakref.ref(model.model)
    group = groups.running.use()
    assert name in group.run(protocol.GetStatus())[0].models
    del model, with_clone
    gc.collect()
    assert gone() is None
    assert name not in group.run(protocol.GetStatus())[0].models


@pytest.fixture
def cancel_at_second_step(monkeypatch):
    def told(value, total, preview, node_id=None):
        if value == 2:
            mm.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", told)


@pytest.mark.parametrize("sampler", ["k_sampler", "mochi_sampler"])
def test_cancel(remote, groups, k_sampler, mochi_sampler, cancel_at_second_step, monkeypatch, sampler):
    run = {"k_sampler": k_sampler, "mochi_sampler": mochi_sampler}[sampler]
    with monkeypatch.context() as calm:
        calm.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
        expected = run(remote)
    pids, loads = groups.running.use().pids, remote.remote.loads
    with pytest.raises(mm.InterruptProcessingException):
        run(remote)
    monkeypatch.undo()
    assert_close(run(remote), expected)
    assert groups.running.use().pids == pids and remote.remote.loads == loads


def test_what_the_node_says(remote, groups, mochi_sampler, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext
    from server import PromptServer

    said = []
    monkeypatch.setattr(PromptServer.instance, "send_progress_text", lambda text, node: said.append((node, text)))
    if groups.running is not None:  # by a test before this one
        groups.running.close()
    with CurrentNodeContext("prompt", "7"):
        mochi_sampler(remote)
    assert {node for node, _ in said} == {"7"}
    lines = [text for _, text in said]
    assert lines[0] == "starting 2 ranks on cpu"
    loading = [re.fullmatch(r"loading: tensor (\d+) of (\d+) · (\d) of 2 ranks ready", text) for text in lines]
    loading = [tuple(map(int, match.groups())) for match in loading if match]
    total = loading[0][1]
    assert loading[-1] == (total, total, 2) and lines[1].startswith("loading: ")
    assert loading == sorted(set(loading))
    step = rf"2 ranks on cpu, guidance 2 x Ulysses 1 · step {STEPS} of {STEPS} · \d+\.\d s · \d+\.\d (MB|GB) a rank"
    assert re.fullmatch(step, lines[-1])


def test_the_node_waits_for_the_slowest_rank(pack, remote, mochi_sampler, monkeypatch, protocol):
    host, said = pack.module("nodes.host.ranks.group"), []
    mochi_sampler(remote)  # so that a group runs
    monkeypatch.setattr(host, "show_text", said.append)
    teller = host._Teller()
    for rank, done in ((0, 1), (0, 2), (1, 1), (1, 1), (1, 2)):
        teller.tell(protocol.Event(rank, protocol.TensorLoaded(done, 2)))
    assert said == [
        "loading: tensor 0 of 2 · 1 of 2 ranks ready",
        "loading: tensor 1 of 2 · 1 of 2 ranks ready",
        "loading: tensor 2 of 2 · 2 of 2 ranks ready",
    ]


def test_previews(remote, mochi_sampler, monkeypatch):
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *now, node_id=None: told.append(now))
    mochi_sampler(remote)
    assert [now[:2] for now in told] == [(step, STEPS) for step in range(1, STEPS + 1)]
    for _, _, (kind, image, _) in told:
        assert kind == "JPEG" and image.size == (8, 6)


def test_status(call, remote, k_sampler, groups, small):
    k_sampler(remote)
    (text,) = call("MochiParallelGroupStatus")
    assert text.startswith("2 ranks on cpu\n")
    for rank, pid in enumerate(groups.running.use().pids):
        assert f"rank {rank}: cpu, process {pid}, " in text
    assert f"{small.dit} (guidance 2 x Ulysses 1, weights replicated): " in text and "loads: " in text
    assert "  attention: sdpa on cpu" in text.splitlines()
    groups.running.close()
    assert call("MochiParallelGroupStatus")[0] == "No group runs."
    k_sampler(remote)
