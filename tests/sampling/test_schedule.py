"""The sigma schedule."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.sampling import linear_quadratic
from mochi.sampling.schedule import scheduled

# Published values: 8 steps with threshold 0.025; the distilled checkpoint's 8 steps, threshold 0.1, 6 linear.
EIGHT = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]


def test_published_values():
    assert linear_quadratic(8) == pytest.approx(EIGHT, abs=1e-12)
    assert linear_quadratic(64)[32] == pytest.approx(0.975)
    assert linear_quadratic(8, 0.1, 6)[6] == pytest.approx(0.9)


@pytest.mark.parametrize(("steps", "sigmas"), [(1, [1.0, 0.0]), (2, [1.0, 0.975, 0.0])])
def test_shortest_runs(steps, sigmas):
    assert linear_quadratic(steps) == pytest.approx(sigmas)


@given(steps=st.integers(1, 200), threshold=st.floats(0.005, 0.3), share=st.floats(0, 1))
def test_falls_from_one_to_zero(steps, threshold, share):
    linear = round(share * steps)
    # Steps so small that the linear part alone overshoots are not schedules.
    if linear and threshold * steps > linear:
        return
    sigmas = linear_quadratic(steps, threshold, linear)
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (steps + 1, 1.0, 0.0)
    assert all(a > b for a, b in itertools.pairwise(sigmas))


@pytest.mark.parametrize("arguments", [(0,), (8, 0.0), (8, 1.0), (8, 0.025, 9), (8, 0.025, -1)])
def test_refuses(arguments):
    with pytest.raises(MochiError):
        linear_quadratic(*arguments)


def test_schedules_by_name():
    """The distilled model's: `--linear_threshold 0.1 --linear_range 0.75` of its published script."""
    assert scheduled("mochi", 64) == linear_quadratic(64)
    assert scheduled("distilled", 8) == linear_quadratic(8, 0.1, 6)
    assert scheduled("mochi", 1) == linear_quadratic(1)
    with pytest.raises(MochiError, match="schedule is 'karras', but must be one of mochi, distilled"):
        scheduled("karras", 8)
