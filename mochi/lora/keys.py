"""What a name in a LoRA file says: which layer, which of its tensors, and whose adapter."""

import re
from typing import NamedTuple

from ..checkpoint.layouts.wrappers import without_inner

# After a layer's name: `.lora_A`, `.lora_A.weight`, `.lora_A.my-style.weight`, `.lora_down.weight`, `_lora.down.weight`
FACTOR = re.compile(r"(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up)(?:(?:\.(.+))?\.(weight|bias))?")
MAGNITUDE = re.compile(r"(.+?)\.lora_magnitude_vector(?:\.(?!weight$)(.+?))?(?:\.weight)?")
BESIDE = re.compile(r"(.+?)\.(?:lora_)?(alpha|dora_scale|diff_b|diff|b_norm|w_norm)")

FACTORS = {"A": "down", "B": "up"}
SAME = {"w_norm": "diff", "b_norm": "diff_b"}  # LyCORIS's names for differences of a norm


class Key(NamedTuple):
    """A tensor of an adapter.

    Attributes:
        stem: what the file calls the layer.
        role: "up", "down", "up_bias" (what the up factor adds beside its product), "alpha", "magnitude" and
            "dora_scale" (of DoRA, as PEFT and as LyCORIS measures it), "diff" and "diff_b" (whole differences of weight
            and bias).
        adapter: PEFT's name for the adapter, None where the file has none.
    """

    stem: str
    role: str
    adapter: str | None = None


def parse(name: str) -> Key | None:
    """What the name of a tensor says; None where it is none of an adapter that is read here."""
    name = without_inner(name)
    if found := FACTOR.fullmatch(name):
        stem, which, adapter, leaf = found.groups()
        role = FACTORS.get(which, which)
        if leaf != "bias":
            return Key(stem, role, adapter)
        return Key(stem, "up_bias", adapter) if role == "up" else None
    if found := MAGNITUDE.fullmatch(name):
        return Key(found[1], "magnitude", found[2])
    if found := BESIDE.fullmatch(name):
        return Key(found[1], SAME.get(found[2], found[2]))
    return None
