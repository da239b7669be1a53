"""Each of torch's attention kernels at the published size, and the one that mochi takes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mochi.dit.backends import SDPA, attention_named, describe, sdpa
from tests.exact import relative_error

from .measuring import milliseconds, profiled
from .setting import Part, Setting

ROWS = 64
"""Queries, the last ones, whose result is held against float32: at the end are tiles that are not full."""

BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION")


def section(s: Setting) -> Iterator[Part]:
    tokens = s.tokens + s.text
    q, k, v = (s.random(1, tokens, s.dit.num_heads, s.dit.head_dim) for _ in range(3))
    right = in_float32(q[:, -ROWS:], k, v)
    work = 4 * tokens**2 * s.dit.num_heads * s.dit.head_dim

    def measure(attend: Callable[[], Tensor]) -> dict[str, Any]:
        found = attend()
        taken = milliseconds(attend, s.device, warm=0)
        return {
            **taken,
            "TFLOP/s": work / taken["ms"] / 1e9,
            "error": relative_error(found[:, -ROWS:], right),
            "layout": "tokens, heads" if found.is_contiguous() else "heads, tokens",
            "kernels": list(profiled(attend, s.device).get("longest", ()))[:3],
        }

    ours = attention_named(SDPA, s.device, s.dtype, s.dit.head_dim)
    said = describe(SDPA, s.device, s.dtype, s.dit.head_dim)
    yield "mochi", lambda: {"tokens": tokens, "described as": said, **measure(lambda: ours(q, k, v))}
    yield "default", lambda: measure(lambda: sdpa(q, k, v))
    for name in BACKENDS if s.cuda else ("FLASH_ATTENTION",):
        yield name, partial(backend, name, q, k, v, measure)


def backend(name: str, q: Tensor, k: Tensor, v: Tensor, measure: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """One that torch refuses here is no failure: which it has is what is asked."""
    try:
        with sdpa_kernel(getattr(SDPBackend, name)):
            return measure(lambda: sdpa(q, k, v))
    except RuntimeError as refusal:
        return {"refused": str(refusal).splitlines()[0]}


def in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of a few queries, head by head: the scores of all heads would take gigabytes."""
    out = []
    for head in range(q.shape[2]):
        scores = q[0, :, head].float() @ k[0, :, head].float().T * q.shape[-1] ** -0.5
        out.append(scores.softmax(-1) @ v[0, :, head].float())
    return torch.stack(out, dim=1)[None]
