"""Kernels norm video as the formulas do."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mochi.kernels import group_norm
from mochi.vae.norm import normalise, pooled

GROUPED = st.sampled_from([(1, 1), (6, 1), (8, 8), (8, 4), (24, 4), (72, 3), (300, 4)])
EPS = 2**-17


@st.composite
def videos(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A video (B, C, T, H, W), in the order of channels_last_3d, a piece of a longer one so, or in torch's own; and
    groups of its channels. Each frame and channel has its own mean and width."""
    channels, groups = draw(GROUPED)
    shape = (
        draw(st.integers(1, 2)),
        channels,
        draw(st.integers(1, 3)),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 30)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    mean, width = torch.randn(2, *shape[:3], 1, 1, generator=generator)
    x = torch.randn(shape, generator=generator) * width + mean + draw(st.sampled_from([0, 10, 1000]))
    x = x.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64])))
    order = draw(st.sampled_from(["whole", "piece", "other"]))
    if order == "whole":
        return x.contiguous(memory_format=torch.channels_last_3d), groups
    if order == "piece":
        longer = F.pad(x, (0, 0, 0, 0, 1, 2), value=torch.nan).contiguous(memory_format=torch.channels_last_3d)
        return longer[:, :, 1:-2], groups
    return x, groups


def exact_statistics(x: Tensor, groups: int) -> Tensor:
    values = x.double().unflatten(1, (groups, -1)).permute(0, 3, 1, 2, 4, 5).flatten(3)
    return torch.stack((values.mean(-1), values.var(-1, correction=0)))


@settings(max_examples=60)
@given(video=videos(), programs=st.integers(1, 64), chunks=st.integers(1, 9))
def test_statistics(video: tuple[Tensor, int], programs: int, chunks: int):
    """However far from zero, and whatever number of programs shares the work."""
    x, groups = video
    with mock.patch.multiple(group_norm, ELEMENTS=512, PROGRAMS=programs, CHUNKS=chunks):
        mean, variance = group_norm.frame_statistics(x, groups)
    expected_mean, expected_variance = exact_statistics(x, groups)
    assert mean.dtype == variance.dtype == torch.promote_types(x.dtype, torch.float32)
    assert close(mean, expected_mean, (8 * torch.finfo(mean.dtype).eps * x.double().abs().amax()))
    # A value's distance from the mean is rounded as these are.
    distance = 8 * torch.finfo(mean.dtype).eps * (x.double().abs().amax() + expected_variance.sqrt())
    assert close(variance, expected_variance, distance * (distance + expected_variance.sqrt()))


def close(found: Tensor, expected: Tensor, within: Tensor) -> bool:
    return ((found.double() - expected).abs() <= within).all().item()


@settings(max_examples=60)
@given(video=videos(), border=st.tuples(*[st.integers(0, 2)] * 2), time=st.integers(0, 2), activate=st.booleans())
def test_normalising(video: tuple[Tensor, int], border: tuple[int, int], time: int, activate: bool):
    """In float32 inside and rounded once; the frames in front stay as they are."""
    x, groups = video
    weight, bias = torch.randn(2, x.shape[1], generator=torch.Generator().manual_seed(0)).to(x.dtype)
    accurate = torch.promote_types(x.dtype, torch.float32)
    statistics = exact_statistics(x, groups).to(accurate)
    (*shape, frames, height, width), (rows, columns) = x.shape, border
    size = (*shape, time + frames, height + 2 * rows, width + 2 * columns)
    padded = torch.full(size, 7, dtype=x.dtype).contiguous(memory_format=torch.channels_last_3d)
    expected = padded.double()
    group_norm.normalise(x, statistics, weight, bias, EPS, activate, padded[:, :, time:])
    exact = (t.double() for t in (x, statistics, weight, bias))
    normalise.reference(*exact, EPS, activate, expected[:, :, time:])
    rounding, largest = torch.finfo(accurate).eps, 1 + expected.abs().amax().item()
    within = {"rtol": torch.finfo(x.dtype).eps, "atol": 4 * rounding * largest}
    torch.testing.assert_close(padded.double(), expected, **within)


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pooling(parts: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(parts)
    statistics = torch.randn(parts, 2, 2, 3, 50, dtype=dtype, generator=generator)
    shares = torch.rand(parts, dtype=dtype, generator=generator).softmax(0)
    torch.testing.assert_close(group_norm.pooled(statistics, shares), pooled.reference(statistics, shares))
