"""Operators that CUDA has kernels of another kind for than a CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """scaled_dot_product_attention: what comes out lies in memory as the queries do."""
    out = F.scaled_dot_product_attention(q, k, v, *args, **kwargs)
    return torch.empty_like(q).copy_(out) if out.shape == q.shape else out.contiguous()


def scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    bias: Tensor | None = None,
    scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    use_fast_accum: bool = False,
) -> Tensor:
    """_scaled_mm, with scales of rows and columns too, of float8 a (M, K) and b (K, N) in the one layout it takes."""
    assert a.is_contiguous() and b.t().is_contiguous(), "a must be row-major, and b column-major"
    assert a.shape[1] % 16 == 0 and b.shape[1] % 16 == 0, "K and N must be multiples of 16"
    if scale_a.numel() > 1 or scale_b.numel() > 1:
        assert (scale_a.shape, scale_b.shape) == ((len(a), 1), (1, b.shape[1])), (
            "scales must be of all rows and columns"
        )
        assert out_dtype == torch.bfloat16, "products of scaled rows are in bfloat16"
    out = a.float() @ b.float() * scale_a * scale_b
    return (out if bias is None else out + bias).to(out_dtype)


STAND_INS = {"scaled_dot_product_attention": attention, "_scaled_mm": scaled_mm}
