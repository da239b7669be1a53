"""From the tensors that a LoRA file has for a layer to the patches on its weight and bias."""

from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.lazy import LazyTensor
from ..errors import CheckpointError
from .adapters import Adapter
from .patch import AdapterPatch, DiffPatch, DoraPatch, LoraPatch
from .roles import measures_rows


def patches_of(path: Path, adapter: Adapter, scale: float) -> dict[str, AdapterPatch]:
    """The patch on the "weight" and that on the "bias", where there is one; `scale` is that of `up @ down`.

    Raises CheckpointError on values that are no numbers.
    """
    rows = {leaf: shape[0] // adapter.place.parts for leaf, shape in adapter.shapes.items()}

    def read(role: str) -> Tensor:
        return _values(adapter.tensors[role], f"{path}: {adapter.stem}")

    def in_our_order(values: Tensor) -> Tensor:
        return swap_halves(values) if adapter.place.swapped else values

    def start(leaf: str) -> int:
        return adapter.place.part * rows[leaf]

    found: dict[str, AdapterPatch] = {}
    if "up" in adapter.tensors:
        up, down = in_our_order(read("up").flatten(1)), read("down").flatten(1)
        found["weight"] = LoraPatch(up, down, scale, start("weight"))
        for role in adapter.tensors.keys() & {"magnitude", "dora_scale"}:
            by_rows = measures_rows(adapter.tensors[role], role, rows["weight"])
            magnitude = in_our_order(read(role).view(-1, 1)) if by_rows else read(role).view(1, -1)
            # PEFT measures rows with the LoRA on them, ComfyUI without.
            kind = {"magnitude": magnitude, "norm_of_sum": role == "magnitude"}
            found["weight"] = DoraPatch(up, down, scale, start("weight"), **kind)
    elif "diff" in adapter.tensors:
        found["weight"] = DiffPatch(in_our_order(read("diff")), start=start("weight"))
    if "up_bias" in adapter.tensors:
        found["bias"] = DiffPatch(in_our_order(read("up_bias")), scale, start("bias"))
    elif "diff_b" in adapter.tensors:
        found["bias"] = DiffPatch(in_our_order(read("diff_b")), start=start("bias"))
    return found


def swap_halves(rows: Tensor) -> Tensor:
    """The rows, with their second half first."""
    return torch.cat(rows.tensor_split(2)[::-1])


def _values(entry: LazyTensor, whose: str) -> Tensor:
    values = entry.read()
    if not values.float().isfinite().all():
        raise CheckpointError(
            f"{whose} has values that are no numbers (NaN or infinite): the file is damaged; download it again"
        )
    return values
