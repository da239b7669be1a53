"""Patches on a weight, as ComfyUI's nodes make them: plain values and tensors, which cross to the ranks.

`{"kind": "lora", "up": (out, r), "down": (r, in), "scale": s, "strength_model": m}`: weight * m + s * up @ down
`{"kind": "weight", "weight": like the parameter}`: that, instead of the weight
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MochiError

Patch = dict[str, Any]


def patched(name: str, weight: Tensor, patches: Sequence[Patch], shape: Sequence[int], rows: slice) -> Tensor:
    """Rows of a parameter of `shape` with patches applied, one on the other, in float32; then rounded to its dtype.

    What returns shares no memory with the patches. Raises MochiError, which names the parameter, on a patch that does
    not fit.
    """
    w = weight.float()
    for patch in patches:
        w = _apply(name, w, patch, shape, rows)
    return w.to(weight.dtype, copy=True)


def _apply(name: str, w: Tensor, patch: Patch, shape: Sequence[int], rows: slice) -> Tensor:
    if patch["kind"] == "weight":
        _check(name, patch["weight"].shape == tuple(shape), f"a weight of {list(patch['weight'].shape)}", shape)
        return patch["weight"][rows].to(w)
    if patch["kind"] == "lora":
        up, down = patch["up"].flatten(1), patch["down"].flatten(1)
        fits = up.shape[1] == down.shape[0] and up.shape[0] == shape[0] and up.shape[0] * down.shape[1] == _size(shape)
        _check(name, fits, f"a LoRA of {list(up.shape)} @ {list(down.shape)}", shape)
        difference = (up[rows].to(w) @ down.to(w)).reshape(w.shape)
        return patch["strength_model"] * w + patch["scale"] * difference
    raise MochiError(f"{name}: patches of kind {patch['kind']!r} are not supported on several ranks")


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _check(name: str, fits: bool, what: str, shape: Sequence[int]) -> None:
    if not fits:
        raise MochiError(f"{name} is {list(shape)}: {what} does not fit it")
