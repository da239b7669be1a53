"""Kernels of quants, compiled for devices that are not here."""

import pytest
import torch

from mochi.quant import QUANT_DTYPE
from mochi.quant.ggml import FORMATS

pytest.importorskip("triton")

# sm_80 has no float8.
FLOAT8 = [(89, torch.bfloat16), (90, torch.bfloat16), (90, torch.float16), (90, torch.float32)]


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks(compiled: list, kind: str):
    """Products and sums are not fused: the formulas round both."""
    from mochi.kernels import ggml

    values, size, _ = FORMATS[kind]
    ggml.dequantize_blocks(torch.zeros(4, 4 * size, dtype=QUANT_DTYPE), kind, values, size, torch.bfloat16)
    (kernel,) = compiled
    assert "mul." in kernel.asm["ptx"] and "fma." not in kernel.asm["ptx"]


@pytest.mark.parametrize(("compiled", "dtype"), FLOAT8, ids=str, indirect=["compiled"])
def test_float8(compiled: list, dtype: torch.dtype):
    from mochi.kernels import float8

    for columns in (48, 3072, 8192):
        float8.quantize_rows(torch.zeros(2, columns, dtype=dtype))
    float8.quantize(torch.zeros(2, 64, dtype=dtype), torch.ones(()))
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2):
        float8.dequantize_scaled(torch.zeros(2, 64, dtype=QUANT_DTYPE), kind, 0.5, dtype)
    assert len(compiled) == 6
    assert all("satfinite.e4m3x2" in kernel.asm["ptx"] for kernel in compiled[:4])


@pytest.mark.parametrize(("compiled", "width"), [(89, 3072), (90, 3072), (90, 1536)], indirect=["compiled"])
def test_quantised_rows(compiled: list, width: int):
    from mochi.kernels import norm, swiglu

    x, vector = torch.zeros(1, 5, width, dtype=torch.bfloat16), torch.zeros(1, width, dtype=torch.bfloat16)
    norm.modulated_rms_norm_rows(x, vector, 1e-6)
    norm.gated_residual_norm_rows(x, x, vector, vector, 1e-6)
    swiglu.swiglu_rows(torch.zeros(1, 5, 16384, dtype=torch.bfloat16))
    assert len(compiled) == 3
    assert all("satfinite.e4m3x2" in kernel.asm["ptx"] for kernel in compiled)
