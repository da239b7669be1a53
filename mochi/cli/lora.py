"""`--lora FILE[=STRENGTH]` of the command line."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import MochiError


def add_option(add: Callable[..., Any]) -> None:
    """Adds the option, which can be repeated."""
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=STRENGTH]",
        help="a LoRA, as strong as it was trained or so many times; can be given several times",
    )


def named_loras(values: Iterable[str]) -> list[tuple[str, float]]:
    """The files of a command line, each with its strength. Raises MochiError on a strength that is no number."""
    return [_split(value) for value in values]


def _split(value: str) -> tuple[str, float]:
    path, sign, text = value.rpartition("=")
    if not sign or text.endswith(".safetensors"):  # there is none, or it belongs to the path
        return value, 1.0
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise MochiError(f"--lora {value}: {text!r} is no strength; give a number behind the =")
    return path, strength
