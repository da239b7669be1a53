"""The pairs of factors in a LoRA file, and the layers that they are for; by names and shapes only."""

import logging
import math
import re
from typing import NamedTuple

from ..checkpoint import Checkpoint
from ..checkpoint.lazy import LazyTensor
from ..errors import CheckpointError, first_few
from .names import Place, depth_of, places

log = logging.getLogger(__name__)

# After a layer's name: `.lora_A`, `.lora_A.weight`, `.lora_A.default.weight`, `.lora_down.weight`, `_lora.down.weight`
FACTOR = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:(?:\.\w+)?\.weight)?")
ALPHA = re.compile(r"(.+?)\.(?:lora_)?alpha")
FACTORS = {"A": "down", "B": "up"}

# Adapters of other kinds. Left out in silence, they would make a result that nobody trained.
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon with a middle factor",
    "lora_B.bias": "LoRA with biases",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    ".diff_b": "differences of biases",
    ".diff": "whole differences of weights",
    ".set_weight": "whole weights",
    ".reshape_weight": "weights of another shape",
    ".w_norm": "differences of norms",
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


class Pair(NamedTuple):
    """Two factors for a place.

    Attributes:
        stem: what the file calls the place.
        up: (rows, r, ...).
        down: (r, columns, ...).
        alpha: where it is beside the factors.
    """

    stem: str
    place: Place
    up: LazyTensor
    down: LazyTensor
    alpha: LazyTensor | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole weight."""
        return self.place.parts * self.up.shape[0], math.prod(self.down.shape[1:])


def find_pairs(file: Checkpoint) -> list[Pair]:
    """The pairs for layers of an AsymmDiT. A warning tells of others, if they are the fewer.

    Raises CheckpointError on a file that is no LoRA, an adapter of another kind, a LoRA for another model, and pairs
    that are incomplete or do not go together.
    """
    factors, alphas = _by_stem(file)
    if halves := [stem for stem, found in factors.items() if len(found) == 1]:
        raise CheckpointError(
            f"{file.path}: {len(halves)} layers have only one of a LoRA's two factors ({first_few(halves)}): the file "
            "is not whole; download it again"
        )
    table = places(depth_of(factors))
    pairs: dict[Place, Pair] = {}
    unknown = []
    for stem, found in factors.items():
        _check_factors(f"{file.path}: the factors of {stem} are", found["up"], found["down"])
        if stem not in table:
            unknown.append(stem)
            continue
        place = table[stem]
        if place in pairs:
            raise CheckpointError(
                f"{file.path}: {pairs[place].stem} and {stem} are both for {place.layer}; choose a file with one LoRA"
            )
        pairs[place] = Pair(stem, place, found["up"], found["down"], alphas.get(stem))
    if len(pairs) < len(unknown):
        models = (model for fragment, model in OTHER_MODELS.items() if any(fragment in stem for stem in factors))
        raise CheckpointError(
            f"{file.path}: a LoRA, but not for Mochi; it seems to be one for {next(models, 'another model')} (its "
            f"layers: {first_few(unknown)}). Mochi's are such as blocks.0.attn.qkv_x or transformer_blocks.0.attn1.to_q"
        )
    if unknown:
        count = f"{len(unknown)} of its {len(factors)} layers"
        log.warning("%s: %s are not known in Mochi and left out (%s)", file.path, count, first_few(unknown))
    return list(pairs.values())


def _by_stem(file: Checkpoint) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, LazyTensor]]:
    """The factors "up" and "down", and the alphas, by the name that stands before them."""
    factors: dict[str, dict[str, LazyTensor]] = {}
    alphas: dict[str, LazyTensor] = {}
    others = []
    for name, entry in file.tensors.items():
        if factor := FACTOR.fullmatch(name):
            stem, which = factor[1], FACTORS.get(factor[2], factor[2])
            found = factors.setdefault(stem, {})
            if which in found:
                raise CheckpointError(f"{file.path}: has several LoRAs for {stem}; choose a file with one")
            found[which] = entry
        elif alpha := ALPHA.fullmatch(name):
            alphas[alpha[1]] = entry
        else:
            others.append(name)
    for fragment, kind in OTHER_KINDS.items():
        if strange := [name for name in others if fragment in name]:
            raise CheckpointError(
                f"{file.path}: has {kind} ({first_few(strange)}), which is not supported here; choose a plain LoRA, "
                "with two factors for each layer"
            )
    if not factors:
        raise CheckpointError(
            f"{file.path}: not a LoRA; it seems to be {file.describe()} (its tensors: {first_few(file.tensors)}). "
            "A LoRA has tensors such as blocks.0.attn.qkv_x.lora_A"
        )
    if others:
        log.warning("%s: %d tensors do not belong to a LoRA, left out (%s)", file.path, len(others), first_few(others))
    return factors, alphas


def _check_factors(whose: str, up: LazyTensor, down: LazyTensor) -> None:
    if min(len(up.shape), len(down.shape)) < 2 or not math.prod(up.shape[1:]) == down.shape[0] > 0:
        raise CheckpointError(f"{whose} {list(up.shape)} and {list(down.shape)}, which do not go together")
    if any(entry.dtype is None or not entry.dtype.is_floating_point for entry in (up, down)):
        raise CheckpointError(f"{whose} not of floating point")
