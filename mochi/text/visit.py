"""A network that is on a device only while it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..transfer import Ferry


@contextmanager
def visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While this context is open, the weights of a model on the CPU are on `device` too. Nothing is copied back.

    Weights that are there already stay as they are.
    """
    places: list[dict[str, Any]] = [kept for m in model.modules() for kept in (m._parameters, m._buffers)]
    homes = [(kept, _elsewhere(kept, device)) for kept in places]
    if not any(home for _, home in homes):
        yield
        return
    carry = Ferry(device) if device.type == "cuda" else lambda t: t.to(device)
    moved: dict[Tensor, Tensor] = {}  # a tensor that several modules have is copied once
    try:
        for kept, home in homes:
            for name, t in home.items():
                if t not in moved:
                    moved[t] = nn.Parameter(carry(t), requires_grad=False) if isinstance(t, nn.Parameter) else carry(t)
                kept[name] = moved[t]
        yield
    finally:
        for kept, home in homes:
            kept.update(home)


def _elsewhere(kept: dict[str, Tensor | None], device: torch.device) -> dict[str, Tensor]:
    return {name: t for name, t in kept.items() if t is not None and t.device != device}
