"""What fits on which card: the bytes of a device that each phase of making a video takes at its peak.

All numbers are bytes, GB are 10^9 of them. Live tensors are counted, line by line of the networks; `python -m
benchmarks.memory` holds the counts against the networks as they run on a CPU. What a GPU's driver, allocator and
kernels take besides are constants (CONTEXT, SLACK and NCCL here, KERNELS of decoding) that were not measured on a GPU.
"""

from __future__ import annotations

from .advice import longest, warning_for
from .decode import decoding
from .denoise import denoising
from .fits import CARDS, Fit, fits
from .need import CONTEXT, NCCL, SLACK, Need
from .text import encoding
from .weights import FILES, Kept, weight_bytes

__all__ = [
    "CARDS",
    "CONTEXT",
    "FILES",
    "NCCL",
    "SLACK",
    "Fit",
    "Kept",
    "Need",
    "decoding",
    "denoising",
    "encoding",
    "fits",
    "longest",
    "warning_for",
    "weight_bytes",
]
