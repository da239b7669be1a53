"""Quantised weights of Linear layers. They stay in memory as the file's bytes until their layer runs."""

from .float8 import FLOAT8, Float8
from .format import QUANT_DTYPE, QuantFormat
from .ggml import Ggml
from .linear import QuantLinear, quant_linears, use_float8_products
from .rows import QuantRows, quantize_rows

__all__ = [
    "FLOAT8",
    "QUANT_DTYPE",
    "Float8",
    "Ggml",
    "QuantFormat",
    "QuantLinear",
    "QuantRows",
    "quant_linears",
    "quantize_rows",
    "use_float8_products",
]
