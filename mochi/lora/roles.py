"""Whether the tensors that a LoRA file has for a layer go together."""

import math
from collections.abc import Mapping

from ..checkpoint.lazy import LazyTensor
from ..errors import CheckpointError

ROLES = ("up", "down", "up_bias", "magnitude", "dora_scale", "diff", "diff_b")
CONFLICTS = (("up", "diff"), ("up_bias", "diff_b"), ("magnitude", "dora_scale"))
NEEDS_FACTORS = ("up_bias", "magnitude", "dora_scale")


def check_tensors(whose: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise CheckpointError unless the tensors, by their roles (see Key), go together.

    whose: the file and what it calls the layer, for messages.
    """
    for one, other in CONFLICTS:
        if one in tensors and other in tensors:
            raise CheckpointError(f"{whose} has both {one} and {other}; choose a file with one LoRA")
    alone = [role for role in NEEDS_FACTORS if role in tensors and "up" not in tensors]
    if alone:
        raise CheckpointError(f"{whose} has {alone[0]} without a LoRA's factors: the file is not whole")
    present = {role: tensors[role] for role in ROLES if role in tensors}
    for role, tensor in present.items():
        if tensor.dtype is None or not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{whose} has {role} that is not of floating point")
    shapes = {role: list(tensor.shape) for role, tensor in present.items()}
    if not (_factors_fit(tensors) and _magnitude_fits(tensors) and all(shapes.values())):
        described = " and ".join(f"{role} {shape}" for role, shape in shapes.items())
        raise CheckpointError(f"{whose} has {described}, which do not go together")


def measures_rows(magnitude: LazyTensor, role: str, rows: int) -> bool:
    """Whether a DoRA's magnitude has a number for each row of a weight with so many; else it has one for each column.

    PEFT measures rows. LyCORIS can do either, and writes (rows, 1) or (1, columns).
    """
    return role == "magnitude" or magnitude.shape[0] == rows


def _factors_fit(tensors: Mapping[str, LazyTensor]) -> bool:
    if "up" not in tensors:
        return True
    up, down = tensors["up"].shape, tensors["down"].shape
    bias = tensors["up_bias"].shape if "up_bias" in tensors else up[:1]
    return min(len(up), len(down)) >= 2 and math.prod(up[1:]) == down[0] > 0 and bias == up[:1]


def _magnitude_fits(tensors: Mapping[str, LazyTensor]) -> bool:
    for role in ("magnitude", "dora_scale"):
        if role in tensors:
            count, rows = math.prod(tensors[role].shape), tensors["up"].shape[0]
            columns = math.prod(tensors["down"].shape[1:])
            by_rows = tensors[role].shape and measures_rows(tensors[role], role, rows)
            return count == rows if by_rows else count > 0 and columns % count == 0
    return True
