"""What was asked of a CUDA device, and from where."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

import mochi

PACKAGE = f"{Path(mochi.__file__).parent}/"

PRODUCTS = {
    *("mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "_scaled_mm_v2", "convolution", "scaled_dot_product_attention"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    "_scaled_dot_product_cudnn_attention",
}
"""Matrix products, convolutions and attention: bound by arithmetic, where all else is bound by memory."""

ONLY_WRITES = {"copy_", "fill_", "zero_", "normal_", "uniform_"}
"""Operators that do not read the tensor that they write into."""

NO_LAUNCH = {
    *("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias"),
    *("_local_scalar_dense", "lift_fresh", "is_pinned", "detach_", "set_", "resize_"),
}
"""Operators without a kernel that are no views by their schema. A number that is read is a host stop instead."""


class Launch(NamedTuple):
    """An operator that ran on the device. bytes: of its tensors, each read once or written once; what a kernel of ours
    writes into counts as both, since its schema does not tell."""

    name: str
    place: str
    bytes: int

    @property
    def is_product(self) -> bool:
        return self.name in PRODUCTS


class Collective(NamedTuple):
    """A collective and its tensors: bytes that come in, whether all are contiguous, on which devices they are."""

    name: str
    place: str
    bytes: int
    contiguous: bool
    devices: frozenset[str]


@dataclass
class Ledger:
    """stops: where the host waits for the device, by what makes it wait and the place in mochi/; other threads, which
    hand finished things on, may wait. given: operators launched so far.
    """

    stops: Counter[tuple[str, str]] = field(default_factory=Counter)
    launches: list[Launch] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    given: int = 0
    thread: int = field(default_factory=get_ident)

    def stop(self, what: str) -> None:
        if get_ident() == self.thread:
            self.stops[what, place()] += 1

    def launch(self, op: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        """Note an operator that has run, with the tensors that it was called with."""
        name = op.overloadpacket.__name__
        if op.is_view or name in NO_LAUNCH:
            return
        bytes_ = sum(map(_bytes, _read(op, name, args, kwargs))) + sum(map(_bytes, _written(op, args, kwargs, out)))
        self.given += 1
        self.launches.append(Launch(name, place(), bytes_))

    def collective(self, name: str, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        contiguous = all(t.is_contiguous() for t in tensors)
        devices = frozenset(t.device.type for t in tensors)
        self.collectives.append(Collective(name, place(), sum(t.nbytes for t in tensors), contiguous, devices))

    def take(self) -> Ledger:
        """All that was noted until now; noting starts anew."""
        taken = Ledger(Counter(self.stops), [*self.launches], [*self.collectives])
        for noted in (self.stops, self.launches, self.collectives):
            noted.clear()
        return taken

    @property
    def elementwise_bytes(self) -> int:
        return sum(launch.bytes for launch in self.launches if not launch.is_product)

    def __str__(self) -> str:
        """A table of what stopped the host, and of the launches, those with most bytes first."""
        lines = [f"{count} x {what} at {where}" for (what, where), count in self.stops.most_common()]
        launches, total = Counter(), Counter()
        for launch in self.launches:
            launches[launch.name, launch.place] += 1
            total[launch.name, launch.place] += launch.bytes
        rows = [f"{n / 1e9:8.3f} GB {launches[key]:5d} x {key[0]} at {key[1]}" for key, n in total.most_common()]
        return "\n".join((f"host stops: {sum(self.stops.values())}", *lines, f"launches: {len(self.launches)}", *rows))


def place() -> str:
    """File and line in mochi/ that is at work; where a kernel is, the one that calls it."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and not file.startswith(f"{PACKAGE}kernels/"):
            return f"{file.removeprefix(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _read(op: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> list[Tensor]:
    named = _by_argument(op, args, kwargs)
    return [t for argument, t in named if not (_is_out(argument) or (argument.is_write and name in ONLY_WRITES))]


def _written(op: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> list[Tensor]:
    into = [t for argument, t in _by_argument(op, args, kwargs) if argument.is_write]
    return into or [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _by_argument(op: Any, args: tuple, kwargs: dict[str, Any]) -> list[tuple[Any, Tensor]]:
    arguments = op._schema.arguments
    values = [*zip(arguments, args), *((a, kwargs[a.name]) for a in arguments[len(args) :] if a.name in kwargs)]
    return [(a, t) for a, value in values for t in tree_leaves(value) if isinstance(t, Tensor)]


def _is_out(argument: Any) -> bool:
    return argument.kwarg_only and argument.is_out


def _bytes(t: Tensor) -> int:
    """Of what lies in memory: what is expanded is there once."""
    values = 1
    for size, stride in zip(t.shape, t.stride()):
        values *= size if stride else 1
    return values * t.element_size()
