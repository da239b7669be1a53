"""torch's scaled_dot_product_attention: which of its kernels runs on a GPU, and whether to trust it.

torch asks its kernels in turn and takes the first that can. From torch 2.10 on cuDNN's is asked first on GPUs of
capability 9 and 10 (H100, B200), if cuDNN is newer than 9.15.0; elsewhere FlashAttention 2 is. That is the fastest
order: cuDNN's takes about half the time of FlashAttention 2 on an H100, but no less on A100, L40S and RTX Pro 6000
(github.com/huggingface/transformers/pull/48163). So none is set here: that would cost time at every call, and could
switch on what a person has switched off.

cuDNN plans each new shape of q, k and v, in about 30 ms, and keeps the plan. Its output has the strides of q.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda as switches
from torch.nn import attention as torch_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Softmax attention of (B, tokens, h, d) q, k and v over all tokens."""

SOUND_CUDNN = 91501
"""Older ones go wrong at lengths that 128 does not divide (github.com/pytorch/pytorch/issues/169849). Some releases of
torch before 2.10 take them all the same."""

TOKENS = 200
"""How many tokens a kernel is tried with: no multiple of any tile."""

HALF = (torch.bfloat16, torch.float16)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's scaled_dot_product_attention, which is everywhere."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def sdpa_without_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As sdpa, by the first of torch's other kernels that is switched on and can."""
    with _without_cudnn():
        return sdpa(q, k, v)


def sdpa_for(device: torch.device, dtype: torch.dtype, head_width: int) -> Attend:
    """sdpa for what is computed there, without cuDNN's kernel where torch would choose it and it is not sound."""
    if _is_sound(device, dtype, head_width):
        return sdpa
    from ..kernels.graph_break import outside

    return outside(sdpa_without_cudnn)  # switches are not for compiled code


def describe(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """The kernel that `sdpa_for` runs there, in words, and what would be faster on that GPU."""
    if not _asks(device):
        return f"sdpa on {device.type}"
    if _is_sound(device, dtype, head_width):
        kernel = _chosen(device, dtype, head_width)
    else:
        with _without_cudnn():
            kernel = _chosen(device, dtype, head_width)
    advice = _faster(kernel, torch.cuda.get_device_capability(device), dtype)
    return f"{_title(kernel)} through sdpa" + (f"; {advice}" if advice else "")


def _asks(device: torch.device) -> bool:
    """Whether torch has kernels to choose from."""
    return device.type == "cuda" and torch.cuda.is_available()


def _chosen(device: torch.device, dtype: torch.dtype, head_width: int) -> SDPBackend:
    """The kernel that torch takes, with those that are switched on now, in their present order."""
    q = torch.empty(1, TOKENS, 2, head_width, dtype=dtype, device=device).transpose(1, 2)
    with torch.cuda.device(device):
        return SDPBackend(torch.ops.aten._fused_sdp_choice(q, q, q))


def _is_sound(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether the kernel that torch takes can be trusted: cuDNN's must be new enough, and have passed its trial."""
    if not _asks(device) or _chosen(device, dtype, head_width) != SDPBackend.CUDNN_ATTENTION:
        return True
    return _cudnn_version() >= SOUND_CUDNN and _passes(device, dtype, head_width)


@functools.lru_cache
def _passes(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether the kernel that torch takes computes a small case right. It is asked once: planning takes time."""
    shape, generator = (3, 2, TOKENS, 2, head_width), torch.Generator().manual_seed(0)
    q, k, v = torch.randn(shape, generator=generator).to(dtype)
    try:
        with torch.inference_mode():
            out = sdpa(*(t.to(device) for t in (q, k, v))).cpu()
    except RuntimeError as error:
        log.warning("cuDNN's attention does not run on %s, and another takes its place: %s", device, error)
        return False
    error = (out.float() - sdpa(q.float(), k.float(), v.float())).abs().max().item()
    if not error < 4 * torch.finfo(dtype).eps:  # of outputs below 1; also where it is no number
        log.warning("cuDNN's attention is wrong by %.2g on %s, and another takes its place", error, device)
        return False
    return True


@contextmanager
def _without_cudnn() -> Iterator[None]:
    others = {
        SDPBackend.FLASH_ATTENTION: switches.flash_sdp_enabled,
        SDPBackend.EFFICIENT_ATTENTION: switches.mem_efficient_sdp_enabled,
        SDPBackend.MATH: switches.math_sdp_enabled,
    }
    with sdpa_kernel([kernel for kernel, is_on in others.items() if is_on()]):
        yield


def _title(kernel: SDPBackend) -> str:
    if kernel == SDPBackend.FLASH_ATTENTION:
        return {"FA3": "FlashAttention 3", "FA4": "FlashAttention 4"}.get(_flash_put_in() or "", "FlashAttention 2")
    return {
        SDPBackend.CUDNN_ATTENTION: f"cuDNN {_version_text(_cudnn_version())}",
        SDPBackend.EFFICIENT_ATTENTION: "the memory-efficient kernel",
        SDPBackend.MATH: "plain products and softmax",
    }.get(kernel, "no kernel")


def _faster(kernel: SDPBackend, capability: tuple[int, int], dtype: torch.dtype) -> str:
    """What would be faster than this kernel on a GPU of that capability; empty where nothing exact is known to be."""
    if torch.version.hip or capability < (8, 0):
        return ""
    if dtype not in HALF:
        return "bfloat16 would be faster"
    if kernel == SDPBackend.CUDNN_ATTENTION or (kernel == SDPBackend.FLASH_ATTENTION and _flash_put_in()):
        return ""
    if capability[0] in (9, 10):
        return _why_not_cudnn() + (" (so would FlashAttention 3: flash3)" if capability[0] == 9 else "")
    return "" if kernel == SDPBackend.FLASH_ATTENTION else "FlashAttention 2 (flash2) would be faster"


def _why_not_cudnn() -> str:
    if not (switches.cudnn_sdp_enabled() and torch.backends.cudnn.enabled):
        return "cuDNN's, which is switched off, would be faster"
    if (version := _cudnn_version()) < SOUND_CUDNN:
        found = f"not {_version_text(version)}" if version else "which is not there"
        return f"cuDNN {_version_text(SOUND_CUDNN)} or later, {found}, would be faster: torch 2.11 for CUDA 13 has it"
    return "cuDNN's, which torch does not take here, would be faster"


def _flash_put_in() -> str | None:
    """Such as "FA3": what somebody has put in the place of FlashAttention 2 by activate_flash_attention_impl."""
    current = getattr(torch_attention, "current_flash_attention_impl", None)
    return current() if current is not None else None


def _cudnn_version() -> int:
    """Such as 91900 for 9.19.0; 0 where there is none."""
    return torch.backends.cudnn.version() or 0


def _version_text(version: int) -> str:
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"
