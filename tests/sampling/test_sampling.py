"""Guidance and the Euler loop, on a flow that is known exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import Cancelled, MochiError
from mochi.sampling import guided, linear_quadratic, per_step_cfg, sample
from mochi.sampling.guidance import parse_cfg

NOISE = torch.randn(2, 12, 1, 2, 2, generator=torch.Generator().manual_seed(0))
DATA = torch.full_like(NOISE, 0.7)


def exact_flow(z, sigma):
    """`z_0 - eps` of the straight path from NOISE to DATA."""
    return DATA - NOISE


@given(steps=st.integers(1, 40))
def test_any_number_of_steps_reaches_the_data(steps):
    latents = sample(lambda z, sigma, step: exact_flow(z, sigma), NOISE, linear_quadratic(steps))
    assert torch.allclose(latents, DATA, atol=1e-5)


def test_reports_every_step_with_an_estimate():
    seen = []
    sample(lambda z, sigma, step: exact_flow(z, sigma), NOISE, linear_quadratic(5), seen.append)
    assert [(s.step, s.steps) for s in seen] == [(i, 5) for i in range(1, 6)]
    assert all(torch.allclose(s.estimate, DATA, atol=1e-5) for s in seen)


def test_cancel_stops_before_the_next_step():
    steps = []

    def predict(z, sigma, step):
        steps.append(step)
        return exact_flow(z, sigma)

    with pytest.raises(Cancelled, match="after step 2 of 5"):
        sample(predict, NOISE, linear_quadratic(5), cancelled=lambda: len(steps) == 2)
    assert steps == [0, 1]


def test_guidance_and_the_skipped_pass():
    passes = []

    def branch(name, value):
        def predict(z, sigma):
            passes.append(name)
            return torch.full_like(z, value)

        return predict

    predict = guided(branch("cond", 3.0), branch("uncond", 1.0), [4.0, 1.0])
    sigma = torch.ones(2)
    assert predict(NOISE, sigma, 0).unique().item() == 1 + 4 * (3 - 1)
    assert predict(NOISE, sigma, 1).unique().item() == 3
    assert passes == ["cond", "uncond", "cond"]


def test_cfg_lists():
    assert per_step_cfg(6, 3) == [6.0, 6.0, 6.0]
    assert per_step_cfg([6, 4, 1], 3) == [6.0, 4.0, 1.0]
    with pytest.raises(MochiError, match=r"2 values.*3 steps"):
        per_step_cfg([6, 4], 3)
    assert parse_cfg("4.5") == 4.5
    assert parse_cfg("6, 6,1") == [6.0, 6.0, 1.0]
    for text in ("", "six", "6;5", "nan", "6, inf"):
        with pytest.raises(MochiError, match="number"):
            parse_cfg(text)
