"""Rows of the table of mixed graphs: each a function that builds one and yields what must hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.host.mixed.checks import Check, Refusal
from tests.host.mixed.graph import Graph

Build = Callable[[Graph], Iterator[Check | Refusal]]


@dataclass(frozen=True)
class Row:
    """ours, builtin: the nodes that are mixed. compared: with what."""

    section: str
    ours: str
    builtin: str
    compared: str
    build: Build

    @property
    def name(self) -> str:
        return self.build.__name__


@dataclass(frozen=True)
class Section:
    title: str
    rows: list[Row] = field(default_factory=list)

    def row(self, ours: str, builtin: str, compared: str) -> Callable[[Build], Build]:
        """Decorates a row's function."""

        def add(build: Build) -> Build:
            self.rows.append(Row(self.title, ours, builtin, compared, build))
            return build

        return add
