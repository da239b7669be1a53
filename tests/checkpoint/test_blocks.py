"""Blocks of GGML are dequantised as by the library of those who define them, bit for bit, whatever the bytes."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st

from mochi.quant import QUANT_DTYPE, Ggml, ggml
from mochi.quant.ggml import FORMATS


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes_of_blocks(kind):
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    quant = Ggml(kind)
    assert (quant.row_bytes(3 * values), quant.columns(3 * size)) == (3 * size, 3 * values)
    with pytest.raises(ValueError, match=f"rows of {values + 1} values cannot be {kind}"):
        quant.row_bytes(values + 1)
    with pytest.raises(ValueError, match=f"rows of {size + 1} bytes cannot be {kind}"):
        quant.columns(size + 1)


@pytest.mark.parametrize("kind", FORMATS)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 3),
    chunk=st.sampled_from([1, 600, 1 << 24]),
)
def test_any_bytes(kind, seed, rows, blocks, chunk):
    """Any scales too, infinite ones and NaN among them: those need not have the same bits, all else does."""
    size = rows, blocks * FORMATS[kind].size
    qweight = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(quants.dequantize(qweight, GGMLQuantizationType[kind]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ggml, "CHUNK", chunk)
        dequantised = Ggml(kind).dequantize(torch.from_numpy(qweight).view(QUANT_DTYPE), torch.float32)
    numbers = expected.isfinite()
    assert dequantised[numbers].view(torch.int32).equal(expected[numbers].view(torch.int32))
    torch.testing.assert_close(dequantised, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounded_once(kind, dtype):
    """To half precision from float32, not from what half precision makes of the scales."""
    qweight = torch.randint(-128, 128, (64, 2 * FORMATS[kind].size), generator=torch.Generator().manual_seed(0)).to(
        QUANT_DTYPE
    )
    exact = Ggml(kind).dequantize(qweight, torch.float32)
    torch.testing.assert_close(Ggml(kind).dequantize(qweight, dtype), exact.to(dtype), rtol=0, atol=0, equal_nan=True)
