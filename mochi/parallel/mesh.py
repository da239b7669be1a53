"""The process groups that belong to a split."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..errors import MochiError
from .split import Split


class Meshes:
    """Device meshes over all ranks, made when first asked for, which all ranks do in the same order, and kept.

    Consecutive ranks share a forward pass: on most machines neighbours are the ones best connected.
    """

    def __init__(self, device_type: str):
        self._device_type = device_type
        self._made: dict[Split, DeviceMesh] = {}

    def __getitem__(self, split: Split) -> DeviceMesh:
        """Dimensions "guidance" and "ulysses". Raises MochiError on a split of another number of ranks."""
        if split.ranks != dist.get_world_size():
            raise MochiError(f"{split} is a split of {split.ranks} ranks, but there are {dist.get_world_size()}")
        if split not in self._made:
            self._made[split] = init_device_mesh(self._device_type, tuple(split), mesh_dim_names=split._fields)
        return self._made[split]
