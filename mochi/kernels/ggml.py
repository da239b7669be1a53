"""GGML's blocks to values, one launch for a whole weight; the formulas are in mochi/quant/ggml.py.

Indices have three axes: blocks, groups of values that share a scale, values of a group. The function of a format takes
pointers to the first byte of blocks (blocks, 1, 1), numbers of groups (1, groups, 1), and numbers of values in their
block (1, groups, values of a group).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PER_PROGRAM = 2048
"""Values that a program takes."""


def dequantize_blocks(qweight: Tensor, kind: str, values: int, size: int, dtype: torch.dtype) -> Tensor:
    function, groups = FUNCTIONS[kind]
    rows, row_bytes = qweight.shape
    weight = torch.empty(rows, row_bytes // size * values, dtype=dtype, device=qweight.device)
    count, blocks = qweight.numel() // size, PER_PROGRAM // values
    if count:
        bits = qweight.contiguous().view(torch.uint8)
        sizes = size, blocks, groups, values // groups
        # A product and a sum fused would round once where the formula rounds twice.
        _dequantize[(triton.cdiv(count, blocks),)](bits, weight, count, function, *sizes, enable_fp_fusion=False)
    return weight


# The values that 4 bits stand for in IQ4, a byte each, in two integers of 64 bits.
_LOWER, _UPPER = (
    tl.constexpr(int.from_bytes(bytes(value & 255 for value in half), "little", signed=True))
    for half in ((-127, -104, -83, -65, -49, -35, -22, -10), (1, 13, 25, 38, 53, 69, 89, 113))
)


@triton.jit
def _byte(at):
    return tl.load(at).to(tl.int32)


@triton.jit
def _signed_byte(at):
    return tl.load(at).to(tl.int8, bitcast=True).to(tl.float32)


@triton.jit
def _half(at):
    """A float16 of two bytes, as float32."""
    return (_byte(at) | _byte(at + 1) << 8).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _integer(field, i, bits: tl.constexpr, run: tl.constexpr):
    """Integer number i, of `bits` bits: the lowest bits of all bytes of a run come first, then the next."""
    each: tl.constexpr = 8 // bits  # integers in a byte
    byte = _byte(field + i // (run * each) * run + i % run)
    return byte >> i // run % each * bits & (1 << bits) - 1


@triton.jit
def _iq4(index):
    """The value that 4 bits stand for."""
    half = tl.where(index < 8, _LOWER, _UPPER)
    return (half >> (index % 8 * 8).to(tl.int64)).to(tl.int8).to(tl.float32)


@triton.jit
def _q4_0(block, group, i):
    return _half(block) * (_integer(block + 2, i, 4, 16) - 8).to(tl.float32)


@triton.jit
def _q4_1(block, group, i):
    return _half(block) * _integer(block + 4, i, 4, 16).to(tl.float32) + _half(block + 2)


@triton.jit
def _q5_0(block, group, i):
    q = _integer(block + 6, i, 4, 16) | _integer(block + 2, i, 1, 1) << 4
    return _half(block) * (q - 16).to(tl.float32)


@triton.jit
def _q5_1(block, group, i):
    q = _integer(block + 8, i, 4, 16) | _integer(block + 4, i, 1, 1) << 4
    return _half(block) * q.to(tl.float32) + _half(block + 2)


@triton.jit
def _q8_0(block, group, i):
    return _half(block) * _signed_byte(block + 2 + i)


@triton.jit
def _q2_k(block, group, i):
    scales = _byte(block + group)
    step = _half(block + 80) * (scales & 15).to(tl.float32)
    offset = _half(block + 82) * (scales >> 4).to(tl.float32)
    return step * _integer(block + 16, i, 2, 32).to(tl.float32) - offset


@triton.jit
def _q3_k(block, group, i):
    step = (_integer(block + 96, group, 4, 8) | _integer(block + 104, group, 2, 4) << 4) - 32
    # The third bit says that nothing is subtracted.
    value = _integer(block + 32, i, 2, 32) - 4 * (1 - _integer(block, i, 1, 32))
    return _half(block + 108) * step.to(tl.float32) * value.to(tl.float32)


@triton.jit
def _k_scales(block, group):
    """Step and offset of a group of Q4_K or Q5_K, of six bits each in twelve bytes."""
    scales = block + 4 + group % 4
    a, b, c = _byte(scales), _byte(scales + 4), _byte(scales + 8)
    step = tl.where(group < 4, a & 63, c & 15 | a >> 2 & 48)
    offset = tl.where(group < 4, b & 63, c >> 4 | b >> 2 & 48)
    return _half(block) * step.to(tl.float32), _half(block + 2) * offset.to(tl.float32)


@triton.jit
def _q4_k(block, group, i):
    step, offset = _k_scales(block, group)
    return step * _integer(block + 16, i, 4, 32).to(tl.float32) - offset


@triton.jit
def _q5_k(block, group, i):
    step, offset = _k_scales(block, group)
    q = _integer(block + 48, i, 4, 32) | _integer(block + 16, i, 1, 32) << 4
    return step * q.to(tl.float32) - offset


@triton.jit
def _q6_k(block, group, i):
    q = (_integer(block, i, 4, 64) | _integer(block + 128, i, 2, 32) << 4) - 32
    return _half(block + 208) * _signed_byte(block + 192 + group) * q.to(tl.float32)


@triton.jit
def _iq4_nl(block, group, i):
    return _half(block) * _iq4(_integer(block + 2, i, 4, 16))


@triton.jit
def _iq4_xs(block, group, i):
    step = (_integer(block + 4, group, 4, 1) | _integer(block + 2, group, 2, 1) << 4) - 32
    return _half(block) * step.to(tl.float32) * _iq4(_integer(block + 8, i, 4, 16))


# The function of each format, and the groups of a block.
FUNCTIONS = {
    "Q4_0": (_q4_0, 1),
    "Q4_1": (_q4_1, 1),
    "Q5_0": (_q5_0, 1),
    "Q5_1": (_q5_1, 1),
    "Q8_0": (_q8_0, 1),
    "Q2_K": (_q2_k, 16),
    "Q3_K": (_q3_k, 16),
    "Q4_K": (_q4_k, 8),
    "Q5_K": (_q5_k, 8),
    "Q6_K": (_q6_k, 16),
    "IQ4_NL": (_iq4_nl, 1),
    "IQ4_XS": (_iq4_xs, 8),
}


@triton.jit(do_not_specialize=["count"])
def _dequantize(
    qweight, weight, count,
    FUNCTION: tl.constexpr, SIZE: tl.constexpr, BLOCKS: tl.constexpr, GROUPS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """A program takes BLOCKS of the `count` blocks, each of SIZE bytes, in GROUPS groups of VALUES values."""
    block = (tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)).to(tl.int64)[:, None, None]
    group = tl.arange(0, GROUPS)[None, :, None]
    i = group * VALUES + tl.arange(0, VALUES)[None, None, :]
    value = FUNCTION(qweight + tl.minimum(block, count - 1) * SIZE, group, i)
    place = weight + block * (GROUPS * VALUES) + i
    tl.store(place, value.to(weight.dtype.element_ty), mask=block < count)
