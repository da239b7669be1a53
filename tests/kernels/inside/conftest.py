"""Triton's interpreter, made to round as devices do: by itself it cuts bfloat16 and float8 off."""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

DTYPES = {
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float32: torch.float32,
    tl.float8e4nv: torch.float8_e4m3fn,
}


def convert(data: np.ndarray, source: tl.dtype, target: tl.dtype, rounding: object) -> np.ndarray:
    """Bits of floating-point numbers of one dtype -> of another."""
    bits = torch.from_numpy(np.array(data.view(f"int{source.primitive_bitwidth}")))
    values = bits.view(DTYPES[source]).float()
    if target == tl.float8e4nv:  # devices go no further than to the largest there is
        values = values.clamp(-448, 448)
    found = values.to(DTYPES[target]).view(getattr(torch, f"int{target.primitive_bitwidth}"))
    return found.numpy().view(f"uint{target.primitive_bitwidth}")


interpreter._convert_float = convert
