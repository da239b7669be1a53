"""The step cache over several ranks: they decide as one device does, and make what it makes."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from torch import Tensor

from mochi.dit.cache import CachePlan, Passes, StepCache
from mochi.dit.runner import BlockRunner, call_block, without
from mochi.errors import Cancelled
from mochi.parallel.owner.client import RemoteDiT, finish, join_passes
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import PassesComputed, StepDone
from mochi.sampling import Given, SkipLayers, guided, sample
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK
from tests.parallel.dit_groups import weight_file
from tests.parallel.helpers import float32_dit

checkpoint = weight_file()
STEPS = 8
SIGMAS = (*(1 - 3e-4 * k * (1 + k / 4) for k in range(STEPS)), 0.0)
PLAN = CachePlan(0.1, SIGMAS)
NOISE = torch.randn(2, 12, 1, 6, 10, generator=torch.Generator().manual_seed(1))  # 15 tokens: uneven shares
SPLITS = {2: [(1, 2), (2, 1)], 3: [(1, 3)], 4: [(2, 2)]}


@pytest.fixture(scope="module", params=SPLITS)
def manager(request) -> Iterator[GroupManager]:
    manager = GroupManager(["cpu"] * request.param, timeout=60.0, threads=1)
    yield manager
    manager.close()


@pytest.fixture(scope="module", params=["replicated", "sharded"])
def dit(request, manager, checkpoint) -> RemoteDiT:
    return float32_dit(manager, checkpoint, request.param)


def prompts(lengths: list[int], seed: int) -> tuple[Tensor, Tensor]:
    features = torch.randn(len(lengths), 256, NETWORK.config.text_width, generator=torch.Generator().manual_seed(seed))
    return features, torch.arange(256) < torch.tensor(lengths)[:, None]


SIDES = prompts([17, 40], 2), prompts([1, 5], 3)


@torch.inference_mode()
def on_one_device(
    cfg: list[float],
    plan: CachePlan,
    noise: Tensor = NOISE,
    frames: Given | None = None,
    skip: SkipLayers | None = None,
) -> tuple[Tensor, Passes]:
    cache = StepCache(plan)

    def flow_of(side: int, text, skipped: tuple[int, ...] = ()):
        call = without(call_block, [NETWORK.blocks[i] for i in skipped])

        def flow(z: Tensor, sigma: Tensor) -> Tensor:
            runner = cache.around([(side, row) for row in range(len(z))], sigma.max().item(), BlockRunner(call))
            return NETWORK(z, sigma, text, runner=runner)

        return flow

    positive, negative = (NETWORK.encode_text(*side) for side in SIDES)
    skipping = None if skip is None else flow_of(2, positive, skip.layers)
    predict = guided(flow_of(0, positive), flow_of(1, negative), cfg, skipping, skip)
    return sample(predict, noise, SIGMAS, given=frames), cache.passes


def over_ranks(
    dit: RemoteDiT,
    cfg: list[float],
    plan: CachePlan | None,
    noise: Tensor = NOISE,
    frames: Given | None = None,
    skip: SkipLayers | None = None,
) -> tuple[Tensor, list[Passes]]:
    """A whole run, and what each rank tells of its passes."""
    rows = [[(text, row) for row in range(2)] for text in (dit.text(*side) for side in SIDES)]
    told: dict[int, Passes] = {}

    def hear(event) -> None:
        if isinstance(event.payload, PassesComputed):
            told[event.rank] = event.payload.passes

    result = finish(dit.sample(noise, SIGMAS, cfg, *rows, plan, frames, skip), hear)
    return result, [told[rank] for rank in sorted(told)]


def test_a_run_decides_and_makes_what_one_device_does(dit):
    cfg = [4.0] * STEPS
    expected, passes = on_one_device(cfg, PLAN)
    assert {passes[step, ((0, 0), 0)] for step in range(STEPS)} == {True, False}
    # In some steps one side of guidance is computed and the other is not.
    assert any(passes[step, ((0, row), 0)] != passes[step, ((1, row), 0)] for step in range(STEPS) for row in (0, 1))
    ranks = len(dit.manager.devices)
    for degrees in SPLITS[ranks]:
        dit.degrees = degrees
        result, told = over_ranks(dit, cfg, PLAN)
        assert relative_error(result, expected) <= 1e-5
        assert len(told) == ranks and join_passes(told) == passes
        guidance, ulysses = degrees
        for group in range(guidance):
            alike = told[group * ulysses : (group + 1) * ulysses]
            assert all(of_rank == alike[0] for of_rank in alike)


def test_given_frames_and_skipped_blocks_are_cached_too(dit):
    noise, clip = torch.randn(2, 2, 12, 3, 4, 6, generator=torch.Generator().manual_seed(4))
    frames, skip, cfg = Given(clip[:1], (0.0, 0.5, 1.0)), SkipLayers((1,)), [4.0] * STEPS
    expected, passes = on_one_device(cfg, PLAN, noise, frames, skip)
    assert set(passes.values()) == {True, False}
    for degrees in SPLITS[len(dit.manager.devices)]:
        dit.degrees = degrees
        result, told = over_ranks(dit, cfg, PLAN, noise, frames, skip)
        assert relative_error(result, expected) <= 1e-5
        assert join_passes(told) == passes


def test_threshold_0_changes_no_bit(dit):
    for degrees in SPLITS[len(dit.manager.devices)]:
        dit.degrees = degrees
        exact, told = over_ranks(dit, [4.0] * STEPS, None)
        assert told == []
        cached, _ = over_ranks(dit, [4.0] * STEPS, CachePlan(0.0, SIGMAS))
        assert torch.equal(cached, exact)


def test_single_forward_passes_are_those_of_the_run(dit):
    """As a host asks for them, both sides of guidance in one batch; at the end nothing is kept."""
    dit.degrees = SPLITS[len(dit.manager.devices)][-1]
    expected, told = over_ranks(dit, [4.0] * STEPS, PLAN)
    texts = [dit.text(*side) for side in SIDES]
    rows = [(text, row) for text in texts for row in range(2)]
    keys = [(side, row) for side in range(2) for row in range(2)]

    def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
        flows = finish(dit.forward(torch.cat((z, z)), torch.cat((sigma, sigma)), rows, PLAN, keys))
        return flows[2:] + 4.0 * (flows[:2] - flows[2:])

    assert relative_error(sample(predict, NOISE, SIGMAS), expected) <= 1e-6
    assert dit.forget_run() == join_passes(told)
    assert dit.forget_run() == {}


def test_steps_of_one_pass_between_steps_of_two(dit):
    """Ranks share the work in another way then, and the cache starts anew; whoever computes, all go on alike."""
    dit.degrees = SPLITS[len(dit.manager.devices)][-1] if len(dit.manager.devices) == 2 else (0, 0)
    cfg = [4.0, 4.0, 1.0, 1.0, 4.0, 4.0, 4.0, 1.0]
    expected, _ = on_one_device(cfg, CachePlan(0.0, SIGMAS))
    result, told = over_ranks(dit, cfg, PLAN)
    assert relative_error(result, expected) < 0.05
    again, told_again = over_ranks(dit, cfg, PLAN)
    assert torch.equal(again, result) and told_again == told
    assert {step for step, _ in join_passes(told)} == set(range(STEPS))
    assert False in join_passes(told).values()


def test_a_cancelled_run_leaves_nothing_behind(dit):
    rows = [[(text, row) for row in range(2)] for text in (dit.text(*side) for side in SIDES)]

    def cancel(event) -> None:
        if isinstance(event.payload, StepDone):
            raise Cancelled

    with pytest.raises(Cancelled):
        finish(dit.sample(NOISE, SIGMAS, [4.0] * STEPS, *rows, PLAN), cancel)
    assert dit.forget_run() == {}


def test_a_side_of_guidance_on_each_machine_decides_for_itself(checkpoint):
    """Weights are sharded inside a machine, where all ranks skip or none."""
    manager = GroupManager(["cpu"] * 4, timeout=60.0, threads=1, machines=(0, 0, 1, 1))
    with closing(manager):
        expected, passes = on_one_device([4.0] * STEPS, PLAN)
        result, told = over_ranks(float32_dit(manager, checkpoint, "sharded"), [4.0] * STEPS, PLAN)
    assert relative_error(result, expected) <= 1e-5 and join_passes(told) == passes
    assert told[0] == told[1] and told[2] == told[3] and told[1] != told[2]
