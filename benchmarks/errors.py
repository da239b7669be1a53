"""How far a result is from the right one."""

from __future__ import annotations

import torch
from torch import Tensor


def error(found: Tensor, right: Tensor) -> float:
    """|found - right| / |right|, over all values, in float64 on the CPU."""
    found, right = found.double().cpu(), right.double().cpu()
    return ((found - right).norm() / right.norm().clamp(min=torch.finfo(torch.float64).tiny)).item()
