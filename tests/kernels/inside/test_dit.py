"""Kernels of the denoiser, interpreted, beside their formulas in float32."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.dit import formulas, heads
from mochi.kernels import heads as heads_kernels
from mochi.kernels import norm, swiglu

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
pytestmark = pytest.mark.parametrize("dtype", DTYPES, ids=str)
batches, tokens, seeds = st.integers(1, 3), st.integers(0, 9), st.integers(0, 999)
widths = st.sampled_from([1, 6, 48, 96, 128, 192, 260])


def check(out: Tensor, exact: Tensor) -> None:
    """out is `exact`, what the formula gives in float32, but for one rounding and float32's own ones."""
    assert out.shape == exact.shape and out.isfinite().all()
    rounding = torch.finfo(out.dtype).eps / 2 * exact.abs() + torch.finfo(out.dtype).smallest_normal
    if exact.numel():
        assert ((out.float() - exact).abs() <= rounding + 1e-6 * exact.abs().amax(-1, keepdim=True)).all()


def some(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random values, a view with other tokens before and behind each sample's."""
    batch, n, *rest = shape
    return (2 * torch.randn(batch, n + 2, *rest)).to(dtype)[:, 1 : n + 1]


@given(batch=batches, n=tokens, width=widths, seed=seeds)
def test_norms_and_gates(dtype, batch, n, width, seed):
    torch.manual_seed(seed)
    x, branch = some(dtype, batch, n, width), some(dtype, batch, n, width)
    # Parts of one vector, as the modulation gives them; some near zero, some where tanh is all but 1.
    modulation = torch.randn(batch, 4 * width) * 10 ** torch.empty(4 * width).uniform_(-4, 1)
    gate, scale = modulation.to(dtype).chunk(4, dim=-1)[1:3]
    single = [t.float() for t in (x, branch, gate)]

    check(norm.modulated_rms_norm(x, scale, EPS), formulas.modulated_rms_norm(x.float(), scale.float(), EPS))
    check(norm.gated_residual(x, branch, gate, EPS), formulas.gated_residual(*single, EPS))
    out, normed = norm.gated_residual_norm(x, branch, gate, scale, EPS)
    check(out, formulas.gated_residual(*single, EPS))
    check(normed, formulas.modulated_rms_norm(out.float(), scale.float(), EPS))


@given(batch=batches, n=tokens, width=st.sampled_from([1, 6, 96, 128, 2050]), seed=seeds)
def test_swiglu(dtype, batch, n, width, seed):
    torch.manual_seed(seed)
    packed = 4 * some(dtype, batch, n, 2 * width)
    check(swiglu.swiglu(packed), formulas.swiglu(packed.float()))


def turns(n: int, count: int, width: int) -> Tensor:
    return torch.view_as_real(torch.polar(torch.ones(()), 9 * torch.randn(n, count, width // 2))).contiguous()


sizes = {"batch": batches, "n": tokens, "text": st.integers(0, 4), "seed": seeds}
count_and_width = st.sampled_from([(1, 2), (8, 24), (6, 128), (12, 8), (4, 32)])


@given(count_and_width=count_and_width, weights=st.sampled_from(DTYPES), **sizes)
def test_heads_of_both_streams(dtype, count_and_width, batch, n, text, weights, seed):
    torch.manual_seed(seed)
    count, width = count_and_width
    x, y = some(dtype, batch, n, 3, count, width), some(dtype, batch, text, 3, count, width)
    of_norms = [torch.randn(width).to(weights) for _ in range(4)]
    table = turns(n, count, width)
    *qk, v = heads_kernels.joint_heads(x, y, *of_norms, table, EPS)
    *exact, _ = heads.joint_heads(x.float(), y.float(), *of_norms, table, EPS)
    assert torch.equal(v, torch.cat((x[:, :, 2], y[:, :, 2]), dim=1))
    for out, expected in zip(qk, exact, strict=True):
        assert out.is_contiguous()
        check(out, expected)


@given(ranks=st.sampled_from([1, 2, 3]), is_turned=st.booleans(), **sizes)
def test_heads_in_the_order_of_the_wire(dtype, ranks, is_turned, batch, n, text, seed):
    """From some of the heads, into a part of what is there; the rest stays as it is."""
    torch.manual_seed(seed)
    count, width = 6, 24
    packed = some(dtype, batch, n, 3, 2 * count, width).tensor_split(2, dim=3)[seed % 2]
    weights = [torch.randn(width) for _ in range(2)]
    table = turns(n, count, width) if is_turned else None
    joint = torch.zeros(2, ranks, n + text, batch, count // ranks, width, dtype=dtype)
    q, k = joint[:, :, text:].permute(0, 3, 2, 1, 4, 5)
    heads_kernels.write_heads(packed, q, k, *weights, table, EPS)
    exact = torch.zeros(2, batch, n, ranks, count // ranks, width)
    heads.write_heads(packed.float(), *exact, *weights, table, EPS)
    for out, expected in zip((q, k), exact, strict=True):
        check(out, expected)
    assert not joint[:, :, :text].any()
