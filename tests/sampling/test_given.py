"""Given frames: each frame has an Euler loop of its own, at its own noise levels."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.sampling import Given, linear_quadratic, sample
from tests.exact import assert_close

NOISE, CLIP = torch.randn(2, 2, 12, 4, 2, 3, generator=torch.Generator().manual_seed(0)).unbind(0)
"""Of 4 frames, two samples each."""

multipliers = st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=4, max_size=4).map(tuple)
starts = st.sampled_from([1.0, 0.9, 0.35])


def schedule(start: float, steps: int = 5) -> list[float]:
    """A run that begins at that noise level, as with denoise."""
    return [start * sigma for sigma in linear_quadratic(steps)]


def flow_of(z: Tensor, level: Tensor, step: int) -> Tensor:
    """A flow in which every frame sees the others: z (B, C, T, h, w), level (B, T)."""
    return (z + z.mean(2, keepdim=True) - step * level[:, None, :, None, None]).sin()


def broadcast(z: Tensor, sigma: Tensor, step: int) -> Tensor:
    """`flow_of` for one level a sample, too."""
    return flow_of(z, sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, z.shape[2]), step)


def frame_by_frame(noise: Tensor, clip: Tensor, sigmas: Sequence[float], levels: Sequence[float]) -> Tensor:
    """The published loop, a frame at a time."""
    frames = [(1 - sigmas[0] * m) * clip[:, :, t] + sigmas[0] * m * noise[:, :, t] for t, m in enumerate(levels)]
    for i in range(len(sigmas) - 1):
        at = torch.tensor([[sigmas[i] * m for m in levels]] * len(noise))
        flow = flow_of(torch.stack(frames, 2), at, i)
        frames = [z + (sigmas[i] - sigmas[i + 1]) * m * flow[:, :, t] for t, (z, m) in enumerate(zip(frames, levels))]
    return torch.stack(frames, 2)


@given(levels=multipliers, start=starts)
def test_equals_a_loop_for_each_frame(levels, start):
    found = sample(broadcast, NOISE, schedule(start), given=Given(CLIP, levels))
    assert_close(found, frame_by_frame(NOISE, CLIP, schedule(start), levels), within=1e-6)


@given(levels=multipliers, start=starts)
def test_frames_without_noise_stay_to_the_bit(levels, start):
    found = sample(broadcast, NOISE, schedule(start), given=Given(CLIP, levels))
    stays = [level == 0 for level in levels]
    assert torch.equal(found[:, :, stays], CLIP[:, :, stays])
    assert all((found[:, :, t] != CLIP[:, :, t]).any() for t, level in enumerate(levels) if level == 1)


@pytest.mark.parametrize("start", [1.0, 0.35])
def test_a_run_with_free_frames_alone_is_a_plain_run(start):
    """At a start below 1 it begins with the clip, as noisy as that."""
    begin = (1 - start) * CLIP + start * NOISE
    found = sample(broadcast, NOISE, schedule(start), given=Given(CLIP, (1.0,) * 4))
    assert torch.equal(found, sample(broadcast, begin, schedule(start)))


def test_noise_with_the_given_frames_in_it_is_taken_as_it_is():
    """As a host hands it over, which has made its own start of them."""
    levels, sigmas = (0.0, 0.3, 1.0, 1.0), schedule(0.9)
    begin = Given(CLIP, levels).noised(NOISE, sigmas[0])
    found = sample(broadcast, begin, sigmas, given=Given(None, levels))
    assert torch.equal(found, sample(broadcast, NOISE, sigmas, given=Given(CLIP, levels)))


@given(levels=multipliers, start=starts)
def test_a_straight_flow_ends_in_the_clip_and_every_estimate_is_it(levels, start):
    """Whatever the levels: from clip and noise of each frame to the clip."""
    seen: list[Tensor] = []
    predict = lambda z, sigma, step: CLIP - NOISE  # noqa: E731
    found = sample(predict, NOISE, schedule(start), lambda done: seen.append(done.estimate), given=Given(CLIP, levels))
    assert len(seen) == 5
    assert all(torch.allclose(estimate, CLIP, atol=1e-5) for estimate in [found, *seen])


def test_the_network_is_told_the_level_of_each_frame():
    told: list[Tensor] = []

    def predict(z: Tensor, sigma: Tensor, step: int) -> Tensor:
        told.append(sigma)
        return torch.zeros_like(z)

    levels, sigmas = (0.0, 0.25, 1.0, 0.5), schedule(0.8, 3)
    sample(predict, NOISE, sigmas, given=Given(CLIP[:1], levels))
    expected = [torch.tensor([[sigma * m for m in levels]] * 2) for sigma in sigmas[:-1]]
    assert all(torch.allclose(ours, right, rtol=1e-6) for ours, right in zip(told, expected, strict=True))


def test_one_clip_is_given_to_all_samples():
    sigmas, levels = schedule(1.0), (0.0, 0.3, 1.0, 1.0)
    both = sample(broadcast, NOISE, sigmas, given=Given(CLIP[:1], levels))
    assert torch.equal(both, sample(broadcast, NOISE, sigmas, given=Given(CLIP[:1].expand(2, -1, -1, -1, -1), levels)))
