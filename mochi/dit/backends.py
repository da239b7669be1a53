"""Ways to compute attention: torch's own, and libraries that a person may have installed.

Each takes queries, keys and values (B, tokens, h, d), and gives (B, tokens, h, d). What the libraries need is from
their readmes.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MochiError
from .sdpa import Attend, sdpa, sdpa_for
from .sdpa import describe as describe_sdpa

__all__ = ["ATTENTIONS", "LIBRARIES", "SDPA", "Attend", "attention_named", "check_attention", "describe", "sdpa"]


@dataclass(frozen=True)
class Library:
    """An attention library and what it needs.

    Attributes:
        prepare: makes the function, of the imported module.
        capabilities: the CUDA capabilities that it runs on, from the first to below the second.
        multiple: what the width of a head must be a multiple of.
        widest: the greatest width of a head.
    """

    title: str
    module: str
    install: str
    prepare: Callable[[Any], Attend]
    capabilities: tuple[tuple[int, int], tuple[int, int]]
    multiple: int
    widest: int

    def complaint(self, device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
        """Why the library cannot be used there; None where it can."""
        lowest, beyond = self.capabilities
        if device.type != "cuda":
            return f"runs on NVIDIA GPUs, not on {device.type}"
        if not lowest <= (capability := torch.cuda.get_device_capability(device)) < beyond:
            above = f" and below {beyond[0]}.{beyond[1]}" if beyond < ANY else ""
            here = f"that of {device} is {capability[0]}.{capability[1]}"
            return f"needs a GPU of CUDA capability {lowest[0]}.{lowest[1]} or more{above}, but {here}"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"computes in bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
        if head_width > self.widest or head_width % self.multiple:
            return f"takes heads of {self.widest} channels at most, a multiple of {self.multiple}, not {head_width}"
        return None

    def load(self) -> Attend:
        """The function. Raises MochiError where the library is not installed, or broken."""
        if importlib.util.find_spec(self.module) is None:
            raise MochiError(f"attention {self.title} is not installed: {self.install}, or choose sdpa")
        try:
            attend = self.prepare(importlib.import_module(self.module))
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            raise MochiError(
                f"attention {self.title} cannot be loaded ({error}): {self.install}, or choose sdpa"
            ) from error
        from ..kernels.graph_break import outside

        return outside(attend)  # a library's functions are compiled already


def _flash2(module: Any) -> Attend:
    run = module.flash_attn_func
    return lambda q, k, v: run(q, k, v)


def _flash3(module: Any) -> Attend:
    run = module.flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = run(q, k, v)
        return out[0] if isinstance(out, tuple) else out  # earlier versions give the log-sum-exp too

    return attend


def _sage(module: Any) -> Attend:
    run = module.sageattn
    return lambda q, k, v: run(q, k, v, tensor_layout="NHD", is_causal=False)


ANY = (1000, 0)
SDPA = "sdpa"
LIBRARIES = {
    "flash2": Library(
        "FlashAttention 2", "flash_attn", "pip install flash-attn --no-build-isolation", _flash2, ((8, 0), ANY), 8, 256
    ),
    "flash3": Library(
        "FlashAttention 3",
        "flash_attn_interface",
        "build the folder hopper of github.com/Dao-AILab/flash-attention",
        _flash3,
        ((9, 0), (10, 0)),
        8,
        256,
    ),
    "sage": Library("SageAttention", "sageattention", "pip install sageattention", _sage, ((8, 0), ANY), 8, 128),
}
ATTENTIONS = (SDPA, *LIBRARIES)


def attention_named(name: str, device: torch.device | str, dtype: torch.dtype, head_width: int = 128) -> Attend:
    """The function of that name, one of ATTENTIONS, for what is computed on `device` in `dtype`.

    Raises MochiError, which says what to install or choose, where it cannot be used.
    """
    if name == SDPA:
        return sdpa_for(torch.device(device), dtype, head_width)
    if name not in LIBRARIES:
        raise MochiError(f"attention is {name!r}, but must be one of {', '.join(ATTENTIONS)}")
    library = LIBRARIES[name]
    if reason := library.complaint(torch.device(device), dtype, head_width):
        raise MochiError(f"attention {library.title} {reason}; choose sdpa")
    return library.load()


def check_attention(name: str, device: torch.device | str, dtype: torch.dtype, head_width: int = 128) -> None:
    """Raise MochiError where `attention_named` would, without running anything on the device: it may be a worker's."""
    if name != SDPA:
        attention_named(name, device, dtype, head_width)


def describe(name: str, device: torch.device | str, dtype: torch.dtype, head_width: int = 128) -> str:
    """In words what computes attention there: the library, or which kernel of sdpa. The attention must be usable."""
    if name == SDPA:
        return describe_sdpa(torch.device(device), dtype, head_width)
    return LIBRARIES[name].title
