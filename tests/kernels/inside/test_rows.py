"""What writes quantized rows writes what it wrote before, quantized, to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mochi.dit import formulas
from mochi.kernels import norm, swiglu
from mochi.quant import quantize_rows

EPS = 1e-6


def drawn(*shapes: tuple[int, ...], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def assert_rows(found: tuple[Tensor, ...], plain: Tensor) -> None:
    values, scales = quantize_rows.reference(plain)
    assert found[0].dtype == torch.float8_e4m3fn and found[0].shape == plain.shape
    assert found[0].view(torch.uint8).equal(values.view(torch.uint8))
    assert found[1].equal(scales)


SIZES = {"batch": st.integers(1, 2), "tokens": st.integers(0, 9), "width": st.sampled_from([48, 256, 1536])}


@given(seed=st.integers(0, 2**32 - 1), **SIZES)
def test_norms(seed: int, batch: int, tokens: int, width: int):
    """The number of tokens is no multiple of those that a program takes."""
    x, branch, gate, scale = drawn(*2 * [(batch, tokens, width)], *2 * [(batch, width)], seed=seed)
    assert_rows(norm.modulated_rms_norm_rows(x, scale, EPS), norm.modulated_rms_norm(x, scale, EPS))
    out, normed = norm.gated_residual_norm(x, branch, gate, scale, EPS)
    found, *rows = norm.gated_residual_norm_rows(x, branch, gate, scale, EPS)
    assert found.equal(out)
    assert_rows(rows, normed)


@given(seed=st.integers(0, 2**32 - 1), **SIZES)
def test_swiglu(seed: int, batch: int, tokens: int, width: int):
    (packed,) = drawn((batch, tokens, 2 * width), seed=seed)
    assert_rows(swiglu.swiglu_rows(packed), swiglu.swiglu(packed))


@pytest.mark.parametrize("width", [64, 3072])
def test_formulas(width: int):
    """They are each the plain one, and then quantized."""
    x, branch, gate, scale = drawn(*2 * [(2, 5, width)], *2 * [(2, width)], seed=0)
    assert_rows(formulas.modulated_rms_norm_rows(x, scale), formulas.modulated_rms_norm(x, scale))
    out, normed = formulas.gated_residual_norm(x, branch, gate, scale)
    found, *rows = formulas.gated_residual_norm_rows(x, branch, gate, scale)
    assert found.equal(out)
    assert_rows(rows, normed)
    assert_rows(formulas.swiglu_rows(x), formulas.swiglu(x))
