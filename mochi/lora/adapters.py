"""What a LoRA file has for each layer of an AsymmDiT; by names and shapes only."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..checkpoint import Checkpoint
from ..checkpoint.lazy import LazyTensor
from ..errors import CheckpointError, first_few
from .keys import Key, parse
from .names import Place, depth_of, find_place
from .roles import check_tensors

log = logging.getLogger(__name__)

# Adapters of other kinds. Left out in silence, they would make a result that nobody trained.
OTHER_KINDS = {
    "lora_mid": "LoCon with a middle factor",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "a1.weight": "GLoRA",
    ".set_weight": "whole weights",
    ".reshape_weight": "weights of another shape",
}

# Fragments of the names in LoRAs for other models.
OTHER_MODELS = {
    "single_transformer_blocks": "Flux",
    "double_blocks": "Flux or Hunyuan Video",
    "single_blocks": "Flux or Hunyuan Video",
    "joint_blocks": "Stable Diffusion 3",
    "down_blocks": "Stable Diffusion",
    "input_blocks": "Stable Diffusion",
    "lora_te": "Stable Diffusion",
    "self_attn": "Wan",
    "cross_attn": "Wan",
    "img_mod": "Qwen-Image",
    "attn2": "LTX Video",
}


class UnsupportedAdapter(CheckpointError):
    """An adapter of a kind that is not read here."""


class Adapter(NamedTuple):
    """The tensors for a place.

    Attributes:
        stem: what the file calls the place.
        tensors: by their roles, see Key. Factors are (rows, r, ...) and (r, columns, ...), magnitudes a number for each
            row or for each column, differences like the weight and the bias.
    """

    stem: str
    place: Place
    tensors: Mapping[str, LazyTensor]

    @property
    def rank(self) -> int | None:
        """Of its factors, if it has them."""
        return self.tensors["down"].shape[0] if "down" in self.tensors else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Rows and columns of the whole "weight" that it is for, and rows of the whole "bias", where it has any."""
        found: dict[str, tuple[int, ...]] = {}
        if "down" in self.tensors:
            found["weight"] = (self.tensors["up"].shape[0], math.prod(self.tensors["down"].shape[1:]))
        elif "diff" in self.tensors:
            rows, *columns = self.tensors["diff"].shape
            found["weight"] = (rows, math.prod(columns)) if columns else (rows,)
        for role in ("up_bias", "diff_b"):
            if role in self.tensors:
                found["bias"] = self.tensors[role].shape
        return {leaf: (self.place.parts * shape[0], *shape[1:]) for leaf, shape in found.items()}


def find_adapters(file: Checkpoint) -> list[Adapter]:
    """What there is for layers of an AsymmDiT. A warning tells of others, if they are the fewer.

    Raises CheckpointError on a file that is no LoRA, a LoRA for another model, several in one file, and tensors that
    are incomplete or do not go together; UnsupportedAdapter on an adapter of another kind.
    """
    keys = _keys(file)
    depth = depth_of(key.stem for key in keys.values())
    places = {key.stem: find_place(key.stem, depth) for key in keys.values()}
    adapters = {key.adapter for key in keys.values() if key.adapter and places[key.stem]}
    if len(adapters) > 1:
        raise CheckpointError(f"{file.path}: has several LoRAs, {first_few(adapters)}; save each in a file of its own")
    stems = _by_stem(file, keys)
    found: dict[Place, Adapter] = {}
    for stem, tensors in stems.items():
        check_tensors(f"{file.path}: {stem}", tensors)
        if (place := places[stem]) is None:
            continue
        if place in found:
            raise CheckpointError(
                f"{file.path}: {found[place].stem} and {stem} are both for {place.layer}; choose a file with one LoRA"
            )
        found[place] = Adapter(stem, place, tensors)
    unknown = [stem for stem in stems if places[stem] is None]
    if len(found) < len(unknown):
        models = (model for fragment, model in OTHER_MODELS.items() if any(fragment in stem for stem in stems))
        raise CheckpointError(
            f"{file.path}: a LoRA, but not for Mochi; it seems to be one for {next(models, 'another model')} (its "
            f"layers: {first_few(unknown)}). Mochi's are such as blocks.0.attn.qkv_x or transformer_blocks.0.attn1.to_q"
        )
    if unknown:
        count = f"{len(unknown)} of its {len(stems)} layers"
        log.warning("%s: %s are not known in Mochi and left out (%s)", file.path, count, first_few(unknown))
    return list(found.values())


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of such names are those of a LoRA, of whatever model."""
    return any(key is not None and key.role != "alpha" for key in map(parse, names))


def _keys(file: Checkpoint) -> dict[str, Key]:
    """What the names of the tensors say. A warning tells of those that say nothing."""
    keys = {name: key for name in file.tensors if (key := parse(name))}
    others = file.tensors.keys() - keys.keys()
    for fragment, kind in OTHER_KINDS.items():
        if strange := [name for name in others if fragment in name]:
            raise UnsupportedAdapter(
                f"{file.path}: has {kind} ({first_few(strange)}), which is not read here; choose a LoRA with two "
                "factors for each layer, a DoRA, or whole differences"
            )
    if not is_lora(keys):
        raise CheckpointError(
            f"{file.path}: not a LoRA; it seems to be {file.describe()} (its tensors: {first_few(file.tensors)}). "
            "A LoRA has tensors such as blocks.0.attn.qkv_x.lora_A"
        )
    if others:
        log.warning("%s: %d tensors do not belong to a LoRA, left out (%s)", file.path, len(others), first_few(others))
    return keys


def _by_stem(file: Checkpoint, keys: Mapping[str, Key]) -> dict[str, dict[str, LazyTensor]]:
    """The tensors of each layer by their roles. A layer with nothing but an alpha has none."""
    stems: dict[str, dict[str, LazyTensor]] = {}
    for name, key in keys.items():
        tensors = stems.setdefault(key.stem, {})
        if key.role in tensors:
            raise CheckpointError(f"{file.path}: has several LoRAs for {key.stem}; choose a file with one")
        tensors[key.role] = file.tensors[name]
    if halves := [stem for stem, tensors in stems.items() if ("up" in tensors) != ("down" in tensors)]:
        raise CheckpointError(
            f"{file.path}: {len(halves)} layers have only one of a LoRA's two factors ({first_few(halves)}): the file "
            "is not whole; download it again"
        )
    return {stem: tensors for stem, tensors in stems.items() if tensors.keys() - {"alpha"}}
