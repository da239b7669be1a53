"""Which layer of the AsymmDiT a name in a LoRA file stands for: one table for all formats.

A name is that of a layer in the published checkpoint or in the diffusers library, with wrappers around it, and in
kohya's format with a prefix of its own and underscores for dots.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..checkpoint.layouts.diffusers import dit_sources
from ..checkpoint.layouts.wrappers import AVERAGES, INNER, OUTER, without_wrappers

DOTTED = (
    "",
    "diffusion_model.",
    "model.diffusion_model.",
    "transformer.",
    "base_model.model.",
    "base_model.model.transformer.",
    "unet.base_model.model.",
)
UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
"""What can stand before a name for ComfyUI's own loaders, which look up whole names: each one has to be made."""

WRAPPERS = sorted((*INNER, *OUTER, *AVERAGES), key=len, reverse=True)
_WRAPPER = re.compile(rf"(?!transformer_blocks_)(?:{'|'.join(WRAPPERS)})_")
_INNER_WRAPPER = re.compile(rf"_(?:{'|'.join(name for name in INNER if name.startswith('_'))})(?=_)")

MOST_BLOCKS = 256


class Place(NamedTuple):
    """A layer of ours, or one of several equal parts of its rows.

    Attributes:
        swapped: whether the second half of our rows comes first in the file.
    """

    layer: str
    part: int = 0
    parts: int = 1
    swapped: bool = False


def find_place(stem: str, depth: int) -> Place | None:
    """The place of a name in a LoRA file, for a model of so many blocks; None where it has none."""
    prefix = next(filter(stem.startswith, UNDERSCORED), None)
    if prefix is None:
        return _places(depth).get(without_wrappers(stem))
    lines = _INNER_WRAPPER.sub("", f"_{stem.removeprefix(prefix)}").removeprefix("_")
    while wrapper := _WRAPPER.match(lines):
        lines = lines[wrapper.end() :]
    return _underscored(depth).get(lines)


@lru_cache(maxsize=4)
def _places(depth: int) -> dict[str, Place]:
    """Every bare name of the layers in the first `depth` blocks, and of those outside blocks."""
    found: dict[str, Place] = {}
    # The last block's mod_y has a name of its own in diffusers. Both names are known, whichever block is the last.
    for sources in (dit_sources(depth), dit_sources(depth + 1)):
        for layer, source in sources.items():
            found[layer] = Place(layer)
            for part, name in enumerate(source.layers):
                found[name] = Place(layer, part, len(source.layers), source.swapped)
    return found


@lru_cache(maxsize=4)
def _underscored(depth: int) -> dict[str, Place]:
    return {name.replace(".", "_"): place for name, place in _places(depth).items()}


def places(depth: int) -> dict[str, Place]:
    """The usual names of the layers in the first `depth` blocks, and of those outside blocks, with their prefixes."""
    dotted = {prefix + name: place for name, place in _places(depth).items() for prefix in DOTTED}
    return dotted | {prefix + name: place for name, place in _underscored(depth).items() for prefix in UNDERSCORED}


def depth_of(names: Iterable[str]) -> int:
    """How many blocks the names speak of. MOST_BLOCKS at most, whatever a strange file says."""
    numbers = (int(number) for name in names for number in re.findall(r"blocks[._](\d{1,9})(?!\d)", name))
    return min(MOST_BLOCKS, 1 + max(numbers, default=0))
