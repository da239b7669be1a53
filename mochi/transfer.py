"""Tensors on their way between a GPU and the host.

The host does not wait for tensors that a GPU sends: meanwhile it gives the GPU its next work. Tensors that are on the
CPU already are handed on at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle

import torch
from torch import Tensor

LEAD = 2
"""How many deliveries a host may be ahead of its GPU."""

PIECE = 64 * 2**20
"""Bytes of each of two pieces of pinned memory: one is filled while the other is on its way."""


class Leaving:
    """Tensors that are copied to pinned memory, after the work that `device` was given so far."""

    def __init__(self, device: torch.device, *tensors: Tensor):
        self._tensors = [_start_copy(t) for t in tensors]
        self._end = _mark(device)

    def wait(self) -> list[Tensor]:
        """The tensors on the CPU, once all are there."""
        self._end.synchronize()
        return self._tensors


class Outgoing:
    """Hands tensors of a device over in the order in which they are sent, each as soon as it is on the CPU.

    For a GPU this happens in a thread. An error that is raised there is raised again by a later `send`, or at the end.

    It is a context manager. At its end everything that was sent has been handed over. Where it ends by an exception,
    tensors that have not arrived yet are dropped, since the GPU may never get that far.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._thread = ThreadPoolExecutor(1, "outgoing") if device.type == "cuda" else None
        self._under_way: deque[Future[None]] = deque()
        self._delivering = threading.Lock()
        self._dropped = False

    def send(self, deliver: Callable[..., None], *tensors: Tensor) -> None:
        """Have `deliver` called with the tensors on the CPU, once the device has done its work so far."""
        if self._thread is None:
            deliver(*(t.cpu() for t in tensors))
            return
        leaving = Leaving(self._device, *tensors)
        self._under_way.append(self._thread.submit(self._hand_over, leaving, deliver))
        while len(self._under_way) > LEAD or (self._under_way and self._under_way[0].done()):
            self._under_way.popleft().result()

    def __enter__(self) -> Outgoing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._under_way:
                self._under_way.popleft().result()
        finally:
            with self._delivering:  # what is being handed over now is finished
                self._dropped = True
            if self._thread is not None:
                self._thread.shutdown(wait=False, cancel_futures=True)

    def _hand_over(self, leaving: Leaving, deliver: Callable[..., None]) -> None:
        tensors = leaving.wait()
        with self._delivering:
            if not self._dropped:
                deliver(*tensors)


def arriving(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors on the CPU, in order. One of a GPU comes once the GPU has been given the work for the next one."""
    before: Leaving | None = None
    for t in tensors:
        if t.device.type != "cuda":
            yield t.cpu()
            continue
        leaving = Leaving(t.device, t)
        del t  # while the next one is made
        if before is not None:
            yield from before.wait()
        before = leaving
    if before is not None:
        yield from before.wait()


def _start_copy(t: Tensor) -> Tensor:
    """A copy in pinned memory. It is there when the current stream gets to it."""
    return t.to("cpu", non_blocking=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    """An event at the end of the work of the device's current stream. Waiting for it takes no CPU core."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event


class Ferry:
    """Copies tensors from the CPU to a CUDA device by way of pinned memory, in two pieces that take turns.

    A device reads pinned memory by itself, at full speed. A whole model in it would be lost to the system.
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
