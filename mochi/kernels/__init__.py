"""Hand-written kernels for CUDA devices: one launch in place of many small operations. See formula.py."""

from __future__ import annotations

from .formula import failed_kernels, formula, without_kernels

__all__ = ["failed_kernels", "formula", "without_kernels"]
