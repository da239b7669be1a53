"""Hand-written kernels for CUDA devices: one launch in place of many small operations. See dispatch.py."""

from __future__ import annotations

from .dispatch import formula, take_failure, without_kernels

__all__ = ["formula", "take_failure", "without_kernels"]
