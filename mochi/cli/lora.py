"""`--lora FILE[=STRENGTH]` of the command line."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..config import DiTConfig
from ..errors import MochiError
from ..lora.apply import Loras, patchable_shapes_for
from ..lora.file import read_lora


def add_option(add: Callable[..., Any]) -> None:
    """Adds the option, which can be repeated."""
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[=STRENGTH]",
        help="a LoRA, as strong as it was trained or so many times; can be given several times",
    )


def read_loras(values: Iterable[str], config: DiTConfig) -> Loras:
    """Read the LoRAs of a command line.

    Raises CheckpointError on a file that does not fit a model of these sizes, MochiError on a strength that is no
    number.
    """
    named = [_split(value) for value in values]
    shapes = patchable_shapes_for(config)
    return [(read_lora(path).fitted(shapes), strength) for path, strength in named]


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
