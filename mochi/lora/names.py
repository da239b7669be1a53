"""Which layer of the AsymmDiT a name in a LoRA file stands for: one table for all formats.

A name is that of a layer in the published checkpoint or in the diffusers library, with a prefix before it, and in
kohya's format with underscores for dots.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..checkpoint.layouts.diffusers import dit_sources

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


@lru_cache(maxsize=4)
def places(depth: int) -> dict[str, Place]:
    """Every name that a layer can have in a LoRA file: those of the first `depth` blocks, and those outside blocks."""
    found: dict[str, Place] = {}
    # The last block's mod_y has a name of its own in diffusers. Both names are known, whichever block is the last.
    for sources in (dit_sources(depth), dit_sources(depth + 1)):
        for layer, source in sources.items():
            own = {layer: Place(layer)}
            for part, name in enumerate(source.layers):
                own[name] = Place(layer, part, len(source.layers), source.swapped)
            for name, place in own.items():
                found |= {prefix + name: place for prefix in DOTTED}
                found |= {prefix + name.replace(".", "_"): place for prefix in UNDERSCORED}
    return found


def depth_of(names: Iterable[str]) -> int:
    """How many blocks the names speak of. MOST_BLOCKS at most, whatever a strange file says."""
    numbers = (int(number) for name in names for number in re.findall(r"blocks[._](\d{1,9})(?!\d)", name))
    return min(MOST_BLOCKS, 1 + max(numbers, default=0))
