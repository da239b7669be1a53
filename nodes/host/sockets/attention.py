"""The ways to compute attention that a person can choose: those of the core, and the one of the host."""

import comfy.ldm.modules.attention as host
import torch
from torch import Tensor

from ....mochi.dit import backends
from ....mochi.dit.backends import SDPA, Attend
from ....mochi.errors import MochiError
from ....mochi.kernels.graph_break import outside
from ..checks import check_choice

HOST = "comfyui"
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
def host_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The host's attention, (B, tokens, h, d) -> the same."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = host.optimized_attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True)
    return out.transpose(1, 2)


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
