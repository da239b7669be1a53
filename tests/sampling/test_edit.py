"""Back to noise and from there to a clip again."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import Cancelled, MochiError
from mochi.sampling import linear_quadratic, sample
from mochi.sampling.edit import drawn_to, invert, windowed
from tests.exact import relative_error

steps = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 12, 2, 2, 4, generator=torch.Generator().manual_seed(seed))


@given(steps=steps, seed=seeds)
def test_a_flow_that_is_straight_is_undone_exactly(steps, seed):
    clip, noise, sigmas = latents(seed), latents(seed + 1), linear_quadratic(steps)

    def predict(z, sigma, step):
        return clip - noise

    assert relative_error(invert(predict, clip, sigmas), noise) <= 1e-5
    assert relative_error(sample(predict, noise, sigmas), clip) <= 1e-5


def bent(z: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
    return torch.tanh(z.roll(1, -1)) - sigma.view(-1, 1, 1, 1, 1) * z.flip(-2)


def test_a_round_trip_is_the_better_the_more_steps_it_has():
    clip, errors = latents(0), []
    for count in (8, 32, 128, 512):
        sigmas = linear_quadratic(count)
        errors.append(relative_error(sample(bent, invert(bent, clip, sigmas), sigmas), clip))
    assert all(fewer > 2 * more for fewer, more in pairwise(errors))
    assert errors[-1] < 0.01


@given(steps=steps, seed=seeds)
def test_it_is_never_asked_about_clean_latents(steps, seed):
    asked = []

    def predict(z, sigma, step):
        asked.append((sigma[0].item(), step))
        return bent(z, sigma, step)

    sigmas = linear_quadratic(steps)
    invert(predict, latents(seed), sigmas)
    assert asked == [(pytest.approx(sigma), step) for step, sigma in enumerate(reversed(sigmas[:-1]))]


def test_each_step_is_reported_and_can_be_the_last():
    told = []
    invert(bent, latents(0), linear_quadratic(5), told.append)
    assert [(done.step, done.steps) for done in told] == [(n, 5) for n in range(1, 6)]
    with pytest.raises(Cancelled, match="after step 2 of 5"):
        told.clear()
        invert(bent, latents(0), linear_quadratic(5), told.append, lambda: len(told) == 2)


@given(steps=steps, seed=seeds)
def test_drawn_with_full_strength_nothing_but_the_original_comes_out(steps, seed):
    original, noise = latents(seed), latents(seed + 1)
    made = sample(drawn_to(original, bent, [1.0] * steps), noise, linear_quadratic(steps))
    assert relative_error(made, original) <= 1e-5


@given(steps=steps, seed=seeds)
def test_drawn_with_no_strength_nothing_changes(steps, seed):
    noise, sigmas = latents(seed), linear_quadratic(steps)
    drawn = drawn_to(latents(seed + 1), bent, [0.0] * steps)
    assert torch.equal(sample(drawn, noise, sigmas), sample(bent, noise, sigmas))


def test_strengths_are_those_of_a_part_of_the_run():
    assert windowed(0.6, 0.0, 0.5, 4) == [0.6, 0.6, 0.0, 0.0]
    assert windowed(0.6, 0.25, 0.75, 4) == [0.0, 0.6, 0.6, 0.0]
    assert windowed(1.0, 0.0, 1.0, 3) == [1.0] * 3
    assert windowed(1.0, 0.5, 0.5, 3) == [0.0] * 3


@pytest.mark.parametrize(("values", "named"), [((0.5, 0.6, 0.4), "start is 0.6"), ((1.5, 0.0, 1.0), "strength is 1.5")])
def test_what_cannot_be_is_refused(values, named):
    with pytest.raises(MochiError, match=named):
        windowed(*values, steps=4)
