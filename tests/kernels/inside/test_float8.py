"""Kernels round to float8 and back as the formulas do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.kernels import float8
from mochi.quant import FLOAT8, QUANT_DTYPE
from mochi.quant.float8 import dequantize_scaled
from mochi.quant.rows import quantize, quantize_rows

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@st.composite
def activations(draw: st.DrawFn) -> torch.Tensor:
    """Rows of any magnitude, zeros among them, with values that stand out."""
    shape = draw(st.sampled_from([(0, 16), (1, 1), (7, 100), (2, 5, 64), (3, 3072)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    x = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator) ** 4
    magnitudes = torch.tensor([0, 1e-42, 1e-30, 1e-3, 1, 1e3])
    rows = torch.randint(len(magnitudes), (*shape[:-1], 1), generator=generator)
    return (x * magnitudes[rows]).to(draw(DTYPES))


@given(x=activations())
def test_rows(x: torch.Tensor):
    values, scales = float8.quantize_rows(x)
    expected_values, expected_scales = quantize_rows.reference(x)
    assert values.dtype == torch.float8_e4m3fn and scales.dtype == torch.float32
    assert scales.equal(expected_scales)
    assert values.view(torch.uint8).equal(expected_values.view(torch.uint8))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none(bad: float):
    """And does not touch other rows."""
    x = torch.ones(3, 64)
    x[1, 5] = bad
    values, scales = float8.quantize_rows(x)
    assert (values.float() * scales).isnan().any(1).tolist() == [False, True, False]


@given(x=activations(), scale=st.sampled_from([1e-3, 0.37, 1.0, 50.0]))
def test_with_one_scale(x: torch.Tensor, scale: float):
    """Too small a scale as well: then the largest there is stands for what is larger."""
    arguments = x, torch.tensor(scale)
    found, expected = float8.quantize(*arguments), quantize.reference(*arguments)
    assert found.dtype == torch.float8_e4m3fn
    assert found.view(torch.uint8).equal(expected.view(torch.uint8))


@pytest.mark.parametrize("kind", FLOAT8, ids=str)
@given(scale=st.floats(1e-6, 1e3), dtype=DTYPES)
def test_dequantising(kind: torch.dtype, scale: float, dtype: torch.dtype):
    """Every byte there is, infinities and NaN too."""
    qweight = torch.arange(-128, 128).to(QUANT_DTYPE).view(2, 128)
    found, expected = (
        run(qweight, kind, scale, dtype) for run in (float8.dequantize_scaled, dequantize_scaled.reference)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
