"""Weights of Linear layers kept as the bytes of a file, and unpacked layer by layer as they are used."""

from __future__ import annotations

from .float8 import FLOAT8, Float8
from .ggml import Ggml
from .linear import PackedLinear, packed_linears, use_float8_products
from .packing import PACKED, Packing
from .rows import QuantisedRows, quantise_rows

__all__ = [
    "FLOAT8",
    "PACKED",
    "Float8",
    "Ggml",
    "PackedLinear",
    "Packing",
    "QuantisedRows",
    "packed_linears",
    "quantise_rows",
    "use_float8_products",
]
