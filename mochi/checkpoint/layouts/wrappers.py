"""What training puts around a network, and so around the names of its tensors.

`module.blocks.0._checkpoint_wrapped_module.attn.qkv_x.weight` is `blocks.0.attn.qkv_x.weight`.
"""

import re
from collections.abc import Iterable

from ..lazy import LazyTensors

# Of DDP, torch.compile, FSDP, activation checkpointing, DeepSpeed, and a layer that PEFT has wrapped. They stand
# anywhere in a name, and nothing of a Mochi is called so.
INNER = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "base_layer",
)
# What people call the whole network; only before a name.
OUTER = ("model", "diffusion_model", "transformer", "unet", "base_model", "dit", "net", "network", "denoiser")
AVERAGES = ("ema", "ema_model", "model_ema", "averaged_model")
COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")
"""Numbers that averaging keeps beside the weights."""

_INNER = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(INNER)})\.")
_OUTER = re.compile(rf"^(?:(?:{'|'.join((*OUTER, *AVERAGES))})\.)+")
_AVERAGE = re.compile(rf"(?:.+\.)?(?:{'|'.join(AVERAGES)})\..+")


def without_inner(name: str) -> str:
    """The name without wrappers that can stand anywhere in it."""
    return _INNER.sub("", name)


def without_wrappers(name: str) -> str:
    """The name without any wrapper."""
    return _OUTER.sub("", without_inner(name), count=1)


def unwrapped(tensors: LazyTensors) -> LazyTensors:
    """The weights under names without inner wrappers. Raises ValueError where two then have one name."""
    found: dict[str, str] = {}
    for name in tensors:
        bare = without_inner(name)
        if bare.rpartition(".")[2] in COUNTERS:
            continue
        if bare in found:
            raise ValueError(f"{found[bare]} and {name} are both {bare}; choose a file with one model")
        found[bare] = name
    return {bare: tensors[name] for bare, name in found.items()}


def without_averages(tensors: LazyTensors) -> LazyTensors:
    """The tensors but for those of moving averages of a network."""
    return {name: entry for name, entry in tensors.items() if not _AVERAGE.fullmatch(name)}


def prefixes_of(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    """What stands before names that end so, `a.b.`, and before that, `a.`; the shortest first."""
    found = set()
    for ending in endings:
        for name in names:
            if name.endswith(f".{ending}"):
                parts = name[: -len(ending) - 1].split(".")
                found |= {".".join(parts[:count]) + "." for count in range(1, len(parts) + 1)}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))
