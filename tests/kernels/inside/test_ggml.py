"""Kernels dequantise blocks of GGML to the bits of the formulas, whatever the bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.kernels import ggml
from mochi.quant import QUANT_DTYPE
from mochi.quant.ggml import FORMATS, dequantize_blocks


@pytest.mark.parametrize("kind", FORMATS)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 30),
    blocks=st.integers(1, 7),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_bytes(kind: str, seed: int, rows: int, blocks: int, dtype: torch.dtype):
    """Any scales too, infinite ones and NaN among them: of NaN the bits need not be the same."""
    values, size, _ = FORMATS[kind]
    shape = rows, blocks * size
    qweight = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(QUANT_DTYPE)
    arguments = qweight, kind, values, size, dtype
    found, expected = ggml.dequantize_blocks(*arguments), dequantize_blocks.reference(*arguments)
    assert found.dtype == dtype and found.shape == expected.shape
    assert found.isnan().equal(expected.isnan())
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert found.view(bits)[~found.isnan()].equal(expected.view(bits)[~found.isnan()])
