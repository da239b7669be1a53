"""A network that is on a device only while it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..transfer import Ferry


@contextmanager
def visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While this context is open, the weights of a model on the CPU are on `device` too. Nothing is copied back."""
    if device.type == "cpu":
        yield
        return
    carry = Ferry(device) if device.type == "cuda" else lambda t: t.to(device)
    places: list[dict[str, Any]] = [kept for m in model.modules() for kept in (m._parameters, m._buffers)]
    homes = [(kept, dict(kept)) for kept in places]
    moved: dict[Tensor, Tensor] = {}  # a tensor that several modules have is copied once
    try:
        for kept, home in homes:
            for name, t in home.items():
                if t is not None and t not in moved:
                    moved[t] = nn.Parameter(carry(t), requires_grad=False) if isinstance(t, nn.Parameter) else carry(t)
                kept[name] = None if t is None else moved[t]
        yield
    finally:
        for kept, home in homes:
            kept.update(home)
