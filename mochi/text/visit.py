"""A network that is on a device only while it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import torch
from torch import Tensor, nn

PIECE = 64 * 2**20
"""Bytes of pinned memory that are filled while as many are on their way."""


@contextmanager
def visiting(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the weights of a model on the CPU are on `device`. Those on the CPU stay: nothing is copied back."""
    if device.type == "cpu":
        yield
        return
    carry = Ferry(device) if device.type == "cuda" else lambda t: t.to(device)
    homes = [(kept, dict(kept)) for m in model.modules() for kept in (m._parameters, m._buffers)]
    moved: dict[Tensor, Tensor] = {}  # what several modules have goes once
    try:
        for kept, home in homes:
            for name, t in home.items():
                if t is not None and t not in moved:
                    moved[t] = nn.Parameter(carry(t), requires_grad=False) if isinstance(t, nn.Parameter) else carry(t)
                kept[name] = moved.get(t)
        yield
    finally:
        for kept, home in homes:
            kept.update(home)


class Ferry:
    """Copies tensors from the CPU to a CUDA device by way of pinned memory, in two pieces that take turns.

    Pinned memory is what a device reads by itself at full speed. All of a model there would be lost to the system.
    """

    def __init__(self, device: torch.device, piece: int = PIECE):
        self._device, self._piece = device, piece
        room = [torch.empty(piece, dtype=torch.uint8, pin_memory=torch.cuda.is_available()) for _ in range(2)]
        self._turns = cycle([(half, torch.cuda.Event()) for half in room])

    def __call__(self, t: Tensor) -> Tensor:
        """A copy on the device, which its current stream may use at once."""
        copy = torch.empty(t.shape, dtype=t.dtype, device=self._device)
        source, target = _bytes(t.detach().contiguous()), _bytes(copy)
        for first in range(0, len(source), self._piece):
            part = source[first : first + self._piece]
            half, arrived = next(self._turns)
            arrived.synchronize()  # what was in it before
            target[first : first + len(part)].copy_(half[: len(part)].copy_(part), non_blocking=True)
            arrived.record(torch.cuda.current_stream(self._device))
        return copy


def _bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)
