"""Kernels of the denoiser, compiled at the published widths for devices that are not here."""

import pytest
import torch
from torch import Tensor

from mochi.config import PREVIEW

pytest.importorskip("triton")

CONFIG = PREVIEW.dit
D, H, WIDTH = CONFIG.hidden_x, CONFIG.num_heads, CONFIG.head_dim


def check(kernels: list, count: int, dtype: torch.dtype) -> None:
    """All that is large moves 16 bytes at a time, nothing is put aside, bfloat16 is rounded to nearest."""
    assert len(kernels) == count
    for kernel in kernels:
        ptx = kernel.asm["ptx"]
        assert ".local" not in ptx and "ld.global.v4.b32" in ptx
        assert "st.global" in ptx and all("v4.b32" in line for line in ptx.splitlines() if "st.global" in line)
        if dtype == torch.bfloat16:
            assert "cvt.rn.bf16" in ptx and "cvt.rz" not in ptx


BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
CASES = [(80, BF16), (89, BF16), (90, BF16), (90, F16), (90, F32)]
cases = pytest.mark.parametrize(("compiled", "dtype"), CASES, ids=str, indirect=["compiled"])


@cases
@pytest.mark.parametrize("width", [D, CONFIG.hidden_y])
def test_norms_and_gates(compiled, dtype, width):
    from mochi.kernels import norm

    x, modulation = torch.zeros(1, 8, width, dtype=dtype), torch.zeros(1, 4 * width, dtype=dtype)
    scale, gate, *_ = modulation.chunk(4, dim=-1)
    norm.modulated_rms_norm(x, scale, 1e-6)
    norm.gated_residual(x, x, gate, 1e-6)
    norm.gated_residual_norm(x, x, gate, scale, 1e-6)
    check(compiled, 3, dtype)


@cases
def test_swiglu(compiled, dtype):
    from mochi.kernels import swiglu

    for width in (CONFIG.mlp_x, CONFIG.mlp_y):
        swiglu.swiglu(torch.zeros(1, 8, 2 * width, dtype=dtype))
    check(compiled, 2, dtype)


@cases
def test_heads(compiled, dtype):
    from mochi.kernels import heads

    def packed(tokens: int) -> Tensor:
        return torch.zeros(1, tokens, 3, H, WIDTH, dtype=dtype)

    weights, turns = [torch.zeros(WIDTH, dtype=dtype)] * 4, torch.zeros(8, H, WIDTH // 2, 2)
    heads.joint_heads(packed(8), packed(4), *weights, turns, 1e-5)
    q, k = torch.zeros(2, 4, 8, 1, H // 4, WIDTH, dtype=dtype).transpose(1, 3)
    heads.write_heads(packed(8), q, k, *weights[:2], turns, 1e-5)
    check(compiled, 3, dtype)
