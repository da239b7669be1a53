"""The ways to compute attention that a person can choose: those of the core, and the one of the host."""

from collections.abc import Mapping
from typing import Any

import comfy.ldm.modules.attention as host
import torch
from torch import Tensor

from ....mochi.dit import backends
from ....mochi.dit.backends import SDPA, Attend, sdpa
from ....mochi.errors import MochiError
from ....mochi.kernels.graph_break import outside
from ..checks import check_choice

HOST = "comfyui"
OVERRIDE = "optimized_attention_override"
"""The transformer option by which a node puts a function in place of the host's attention."""

ATTENTIONS = (*backends.ATTENTIONS, HOST)

# What the host's own functions are among those of the core, which ranks know.
_IN_RANKS = {"attention_pytorch": SDPA, "attention_flash": "flash2", "attention_sage": "sage"}


def attention_named(name: str, device: torch.device, dtype: torch.dtype, head_width: int) -> Attend:
    """As in the core; "comfyui" is what the host was started with (--use-sage-attention and the like)."""
    check_choice("attention", name, ATTENTIONS)
    return host_attention if name == HOST else backends.attention_named(name, device, dtype, head_width)


def describe(name: str, device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """As in the core."""
    return host.optimized_attention.__name__ if name == HOST else backends.describe(name, device, dtype, head_width)


@outside  # some of them cannot be compiled
def host_attention(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any] | None = None) -> Tensor:
    """The host's attention, or what a node has put in its place, (B, tokens, h, d) -> the same.

    options: the transformer options of the pass.
    """
    heads = q.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    # As ComfyUI's own Mochi calls it: what nodes put in its place is made for such calls.
    out = host.optimized_attention(q, k, v, heads, skip_reshape=True, transformer_options=options or {})
    return out.unflatten(-1, (heads, -1))


class HostAttention:
    """How the blocks of a network compute attention: as a person chose, or by what a node has put in its place.

    Attributes:
        chosen: the function that a person chose.
        options: the transformer options of the pass that runs, or of the last one, which gradient checkpointing runs
            again.
    """

    def __init__(self, chosen: Attend = sdpa):
        self.chosen = chosen
        self.options: Mapping[str, Any] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.chosen is host_attention or OVERRIDE in self.options:
            return host_attention(q, k, v, self.options)
        return self.chosen(q, k, v)


def override_in(options: Mapping[str, Any]) -> str | None:
    """What a node has put in place of the host's attention, by its name in the code; None where there is nothing."""
    if OVERRIDE not in options:
        return None
    override = options[OVERRIDE]
    named = override if hasattr(override, "__qualname__") else type(override)
    return f"{named.__module__}.{named.__qualname__}".replace(".<locals>", "")


def attention_of_ranks(name: str) -> str:
    """What to ask ranks for, in whose processes the host is not. Raises MochiError where there is no such thing."""
    check_choice("attention", name, ATTENTIONS)
    if name != HOST:
        return name
    function = host.optimized_attention.__name__
    if function not in _IN_RANKS:
        raise MochiError(
            f"attention is {HOST!r}, but what ComfyUI was started with ({function}) is not there over several GPUs: "
            f"choose one of {', '.join(backends.ATTENTIONS)}."
        )
    return _IN_RANKS[function]
