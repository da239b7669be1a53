"""How all benchmarks say what they found: a table for people, or one line of JSON with `--json`."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import torch

Figures = Mapping[str, Mapping[str, Any]]
"""What was measured -> name of a figure, with its unit -> its value."""


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")


def report(title: str, figures: Figures, as_json: bool) -> None:
    """Print them. In JSON: {"title", "torch", "figures"}."""
    if as_json:
        print(json.dumps({"title": title, "torch": torch.__version__, "figures": figures}), flush=True)
        return
    columns = [list(row) for row in figures.values()]
    is_table = len(columns) > 1 and all(names == columns[0] for names in columns)
    print("\n".join([title, *(_table(figures) if is_table else _lists(figures))]), flush=True)


def _table(figures: Figures) -> list[str]:
    columns = ["", *next(iter(figures.values()))]
    rows = [columns, *([name, *map(_text, row.values())] for name, row in figures.items())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _lists(figures: Figures) -> list[str]:
    """Where each has figures of its own."""
    width = max(len(name) for row in figures.values() for name in row)
    lines = []
    for title, row in figures.items():
        lines += [title, *(f"  {name:<{width}}  {_text(value)}" for name, value in row.items())]
    return lines


def _text(value: Any) -> str:
    """Four digits of a fraction, all of anything else."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
