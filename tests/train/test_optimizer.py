"""The optimiser beside torch's own parts, put together plainly."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from mochi.train.optimizer import Optimizer, learning_rate
from mochi.train.settings import TrainSettings
from mochi.train.state import Identity, restore_checkpoint, save_checkpoint

SETTINGS = TrainSettings(steps=20, lr=0.1, warmup=4, clip=0.5, ema=0.9, weight_decay=0.1)


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(3, 4)), "b": nn.Parameter(torch.randn(5))}


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]


def trained(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for p, g in zip(optimizer.parameters.values(), gradients(step), strict=True):
            p.grad = g
        optimizer.update()


def test_it_is_adamw_with_clipping_a_schedule_and_an_average():
    optimizer = Optimizer(parameters(), SETTINGS)
    trained(optimizer, range(20))
    plain, average = list(parameters().values()), [p.detach().clone() for p in parameters().values()]
    adam = torch.optim.AdamW(plain, lr=0.1, weight_decay=0.1)
    for step in range(20):
        for p, g in zip(plain, gradients(step), strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(plain, 0.5)
        adam.param_groups[0]["lr"] = learning_rate(SETTINGS, step)
        adam.step()
        kept = min(0.9, (2 + step) / (11 + step))
        average = [kept * a + (1 - kept) * p.detach() for a, p in zip(average, plain, strict=True)]
    for (name, p), theirs, mean in zip(optimizer.parameters.items(), plain, average, strict=True):
        torch.testing.assert_close(p, theirs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(optimizer.average[name], mean, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(SETTINGS, step) for step in range(20)]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.002
    assert learning_rate(TrainSettings(steps=10, warmup=0, lr=0.1), 0) == pytest.approx(0.1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="does not tell what files a process holds")
def test_going_on_lets_go_of_the_file(tmp_path):
    """Windows replaces no file that is held."""
    optimizer, identity = Optimizer(parameters(), SETTINGS), Identity({}, "", "", 0, "", 1)
    trained(optimizer, range(3))
    save_checkpoint(tmp_path, optimizer, identity, None)
    again = Optimizer(parameters(), SETTINGS)
    restore_checkpoint(tmp_path, again)
    assert again.step == 3 and str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_it_goes_on_from_its_state():
    whole, first = Optimizer(parameters(), SETTINGS), Optimizer(parameters(), SETTINGS)
    trained(whole, range(20))
    trained(first, range(7))
    state = copy.deepcopy(first.state())
    second = Optimizer(parameters(), SETTINGS)
    second.restore(state, 7)
    trained(second, range(7, 20))
    for name in whole.parameters:
        assert torch.equal(whole.parameters[name], second.parameters[name])
        assert torch.equal(whole.average[name], second.average[name])


def test_a_gradient_that_is_no_number_changes_nothing():
    optimizer = Optimizer(parameters(), SETTINGS)
    trained(optimizer, range(3))
    before = copy.deepcopy(optimizer.state())
    for p in optimizer.parameters.values():
        p.grad = torch.full_like(p, torch.inf)
    assert optimizer.update()[1] == torch.inf
    after = optimizer.state()
    assert optimizer.step == 3 and all(torch.equal(before[name], after[name]) for name in before)
