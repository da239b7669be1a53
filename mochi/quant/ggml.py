"""GGML's block formats, as GGUF files have them. Source: ggml-quants.c and ggml-common.h of ggml.

A row is cut into blocks of 32 or 256 values. A block has small integers, and scales that its values share. Everything
is computed in float32, like the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import formula
from .format import QuantFormat

# Values dequantised at a time. They go through float32, in which a whole weight could be too large for a device.
CHUNK = 1 << 24


@dataclass(frozen=True)
class Ggml(QuantFormat):
    """A format by its name, `kind`, which is one of FORMATS."""

    kind: str

    @property
    def title(self) -> str:
        return self.kind

    def row_bytes(self, columns: int) -> int:
        values, size, _ = FORMATS[self.kind]
        return self._blocks(columns, values, "values") * size

    def columns(self, row_bytes: int) -> int:
        values, size, _ = FORMATS[self.kind]
        return self._blocks(row_bytes, size, "bytes") * values

    def dequantize(self, qweight: Tensor, dtype: torch.dtype) -> Tensor:
        values, size, _ = FORMATS[self.kind]
        return dequantize_blocks(qweight, self.kind, values, size, dtype)

    def _blocks(self, length: int, each: int, unit: str) -> int:
        if length % each:
            raise ValueError(f"rows of {length} {unit} cannot be {self.kind}, which has blocks of {each}")
        return length // each


@formula("ggml:dequantize_blocks")
def dequantize_blocks(qweight: Tensor, kind: str, values: int, size: int, dtype: torch.dtype) -> Tensor:
    """Bytes of a format, whose blocks have `values` values in `size` bytes -> weight, rounded once, to `dtype`."""
    dequantize = FORMATS[kind].dequantize
    columns = qweight.shape[1] // size * values
    weight = torch.empty(qweight.shape[0], columns, dtype=dtype, device=qweight.device)
    each = max(1, CHUNK // max(1, columns))
    for rows, target in zip(qweight.split(each), weight.split(each), strict=True):
        blocks = rows.reshape(-1, size).view(torch.uint8)
        target.copy_(dequantize(blocks).view(target.shape))
    return weight


def _fields(blocks: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    return blocks.split(sizes, dim=1)


def _half(field: Tensor) -> Tensor:
    """A float16 of two bytes, (blocks, 2) -> (blocks, 1) float32."""
    return field.contiguous().view(torch.float16).float()


def _integers(field: Tensor, bits: int, run: int) -> Tensor:
    """Integers of `bits` bits from (blocks, bytes). The lowest bits of all bytes of a run come first, then the next."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=field.device)[:, None]
    return (field.unflatten(1, (-1, 1, run)) >> shifts & (1 << bits) - 1).flatten(1)


def _times(scales: Tensor, values: Tensor) -> Tensor:
    """Values (blocks, n * m) times the n scales of their block."""
    return scales.unsqueeze(2) * values.float().unflatten(1, (scales.shape[1], -1))


def _q4_0(blocks: Tensor) -> Tensor:
    d, q = _fields(blocks, 2, 16)
    return _half(d) * (_integers(q, 4, 16).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    d, m, q = _fields(blocks, 2, 2, 16)
    return _half(d) * _integers(q, 4, 16).float() + _half(m)


def _q5_0(blocks: Tensor) -> Tensor:
    d, high, q = _fields(blocks, 2, 4, 16)
    return _half(d) * ((_integers(q, 4, 16) | _integers(high, 1, 1) << 4).float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    d, m, high, q = _fields(blocks, 2, 2, 4, 16)
    return _half(d) * (_integers(q, 4, 16) | _integers(high, 1, 1) << 4).float() + _half(m)


def _q8_0(blocks: Tensor) -> Tensor:
    d, q = _fields(blocks, 2, 32)
    return _half(d) * q.contiguous().view(torch.int8).float()


def _q2_k(blocks: Tensor) -> Tensor:
    scales, q, d, least = _fields(blocks, 16, 64, 2, 2)
    steps, offsets = _half(d) * (scales & 15).float(), _half(least) * (scales >> 4).float()
    return _times(steps, _integers(q, 2, 32)) - offsets.unsqueeze(2)


def _q3_k(blocks: Tensor) -> Tensor:
    high, q, scales, d = _fields(blocks, 32, 64, 12, 2)
    low_bits, high_bits = _fields(scales, 8, 4)
    steps = (_integers(low_bits, 4, 8) | _integers(high_bits, 2, 4) << 4).float() - 32
    # The third bit says that nothing is subtracted.
    values = _integers(q, 2, 32).float() - 4 * (1 - _integers(high, 1, 32).float())
    return _times(_half(d) * steps, values)


def _k_scales(d: Tensor, least: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The eight steps and offsets of a block of Q4_K or Q5_K, of six bits each in twelve bytes."""
    a, b, c = _fields(scales, 4, 4, 4)
    steps = torch.cat((a & 63, c & 15 | a >> 2 & 48), dim=1)
    offsets = torch.cat((b & 63, c >> 4 | b >> 2 & 48), dim=1)
    return _half(d) * steps.float(), _half(least) * offsets.float()


def _q4_k(blocks: Tensor) -> Tensor:
    d, least, scales, q = _fields(blocks, 2, 2, 12, 128)
    steps, offsets = _k_scales(d, least, scales)
    return _times(steps, _integers(q, 4, 32)) - offsets.unsqueeze(2)


def _q5_k(blocks: Tensor) -> Tensor:
    d, least, scales, high, q = _fields(blocks, 2, 2, 12, 32, 128)
    steps, offsets = _k_scales(d, least, scales)
    return _times(steps, _integers(q, 4, 32) | _integers(high, 1, 32) << 4) - offsets.unsqueeze(2)


def _q6_k(blocks: Tensor) -> Tensor:
    q, high, scales, d = _fields(blocks, 128, 64, 16, 2)
    values = (_integers(q, 4, 64) | _integers(high, 2, 32) << 4).float() - 32
    return _times(_half(d) * scales.contiguous().view(torch.int8).float(), values)


IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _iq4_nl(blocks: Tensor) -> Tensor:
    d, q = _fields(blocks, 2, 16)
    table = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=blocks.device)
    return _half(d) * table[_integers(q, 4, 16).int()]


def _iq4_xs(blocks: Tensor) -> Tensor:
    d, high, low, q = _fields(blocks, 2, 2, 4, 128)
    steps = (_integers(low, 4, 1) | _integers(high, 2, 1) << 4).float() - 32
    table = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=blocks.device)
    return _times(_half(d) * steps, table[_integers(q, 4, 16).int()])


class Format(NamedTuple):
    """A block has `values` values in `size` bytes. `dequantize` takes (blocks, size) uint8 to the values, float32."""

    values: int
    size: int
    dequantize: Callable[[Tensor], Tensor]


FORMATS = {
    "Q4_0": Format(32, 18, _q4_0),
    "Q4_1": Format(32, 20, _q4_1),
    "Q5_0": Format(32, 22, _q5_0),
    "Q5_1": Format(32, 24, _q5_1),
    "Q8_0": Format(32, 34, _q8_0),
    "Q2_K": Format(256, 84, _q2_k),
    "Q3_K": Format(256, 110, _q3_k),
    "Q4_K": Format(256, 144, _q4_k),
    "Q5_K": Format(256, 176, _q5_k),
    "Q6_K": Format(256, 210, _q6_k),
    "IQ4_NL": Format(32, 18, _iq4_nl),
    "IQ4_XS": Format(256, 136, _iq4_xs),
}
