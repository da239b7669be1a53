"""Patches on a weight, as ComfyUI's nodes make them: plain values and tensors, which cross to the ranks.

`{"kind": "lora", "up": (out, r), "down": (r, in), "scale": s, "strength_model": m}`: weight * m + s * up @ down;
with `"start": first`, only on the rows that `up` has, from that one on
`{"kind": "weight", "weight": like the parameter}`: that, instead of the weight
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MochiError

Patch = dict[str, Any]


Packed = tuple[dict[str, list[Patch]], dict[torch.dtype, Tensor]]
"""Patches in which each tensor is (dtype, first element, shape), and one long tensor of each dtype."""


def pack(patches: Mapping[str, Sequence[Patch]]) -> Packed:
    """Put the tensors of patches behind one another: each that crosses to the ranks by itself would cost open files,
    of which a LoRA on all blocks would need more than a process may have. The patches' own are left alone."""
    parts: dict[torch.dtype, list[Tensor]] = {}
    ends: dict[torch.dtype, int] = {}

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        first = ends.get(value.dtype, 0)
        parts.setdefault(value.dtype, []).append(value.cpu().flatten())
        ends[value.dtype] = first + value.numel()
        return value.dtype, first, tuple(value.shape)

    plan = {name: [{key: place(patch[key]) for key in patch} for patch in several] for name, several in patches.items()}
    return plan, {dtype: torch.cat(tensors) for dtype, tensors in parts.items()}


def unpack(packed: Packed) -> dict[str, list[Patch]]:
    """The patches that were packed; their tensors are views."""
    plan, long = packed

    def found(value: Any) -> Any:
        if not isinstance(value, tuple):
            return value
        dtype, first, shape = value
        return long[dtype][first : first + torch.Size(shape).numel()].view(shape)

    return {name: [{key: found(patch[key]) for key in patch} for patch in several] for name, several in plan.items()}


def patched(name: str, weight: Tensor, patches: Sequence[Patch], shape: Sequence[int], rows: slice) -> Tensor:
    """Rows of a parameter of `shape` with patches applied, one on the other, in float32; then rounded to its dtype.

    What returns shares no memory with the patches. Raises MochiError, which names the parameter, on a patch that does
    not fit.
    """
    w = weight.to(torch.float32, copy=True)
    for patch in patches:
        if patch["kind"] == "weight":
            _check(name, patch["weight"].shape == tuple(shape), f"a weight of {list(patch['weight'].shape)}", shape)
            w.copy_(patch["weight"][rows])
        elif patch["kind"] == "lora":
            _add_lora(name, w, patch, shape, rows)
        else:
            raise MochiError(f"{name}: patches of kind {patch['kind']!r} are not supported on several ranks")
    return w.to(weight.dtype)


def _add_lora(name: str, w: Tensor, patch: Patch, shape: Sequence[int], rows: slice) -> None:
    up, down = patch["up"].flatten(1), patch["down"].flatten(1)
    start = patch.get("start", 0)
    stop = start + len(up)
    in_range = start >= 0 and stop <= shape[0] if "start" in patch else stop == shape[0]
    fits = in_range and up.shape[1] == down.shape[0] and shape[0] * down.shape[1] == torch.Size(shape).numel()
    _check(name, fits, f"a LoRA of {list(up.shape)} @ {list(down.shape)} from row {start} on", shape)
    first, last = max(start, rows.start), min(stop, rows.stop)
    if first < last:
        part = w[first - rows.start : last - rows.start]
        difference = up[first - start : last - start].to(w) @ down.to(w)
        part.mul_(patch["strength_model"]).add_(difference.view(part.shape).mul_(patch["scale"]))


def _check(name: str, fits: bool, what: str, shape: Sequence[int]) -> None:
    if not fits:
        raise MochiError(f"{name} is {list(shape)}: {what} does not fit it")
