"""The process groups that belong to a split."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ...errors import MochiError
from ..machines import machine_of_each, ranks_of_each
from ..split import Split
from .collectives import Peers, Traffic


class Meshes:
    """Device meshes over all ranks. Each is made when it is first asked for, by all ranks in the same order, and kept.

    Consecutive ranks share a forward pass: on most machines neighbours are the ones best connected.

    Args:
        timeout: of the operations of their groups; torch's own is 30 minutes, or 10 over NCCL.
        machines: the number of the machine of each rank; empty where all are on one.
    """

    def __init__(self, device_type: str, timeout: timedelta | None = None, machines: Sequence[int] = ()):
        self.machines = machine_of_each(machines, dist.get_world_size())
        self._device_type, self._timeout = device_type, timeout
        self._made: dict[Split, DeviceMesh] = {}
        self._mates: Any = None

    def __getitem__(self, split: Split) -> DeviceMesh:
        """Dimensions "cfg_degree" and "ulysses_degree". Raises MochiError on a split of another number of ranks."""
        if split.ranks != dist.get_world_size():
            raise MochiError(f"{split} is a split of {split.ranks} ranks, but there are {dist.get_world_size()}")
        if split not in self._made:
            ranks = torch.arange(split.ranks).view(tuple(split))
            # init_device_mesh takes no timeout for them.
            groups = [self._group_among(lines.tolist()) for lines in (ranks.T, ranks)]
            self._made[split] = DeviceMesh.from_group(
                groups, self._device_type, mesh=ranks, mesh_dim_names=split._fields
            )
        return self._made[split]

    def mates(self) -> dist.ProcessGroup:
        """The ranks of this rank's machine, which share weights. All ranks call it, as they ask for meshes."""
        if self._mates is None:
            together = list(ranks_of_each(self.machines).values())
            everyone: Any = dist.group.WORLD
            self._mates = mates = everyone if len(together) == 1 else self._group_among(together)
            return mates
        return self._mates

    def peers(self, split: Split, dimension: str, traffic: Traffic) -> Peers:
        """The ranks that a dimension of a split joins to this one."""
        return Peers(self[split].get_group(dimension), traffic, self.machines)

    def _group_among(self, several: list[list[int]]) -> dist.ProcessGroup:
        """Make a group of each list of ranks, and return the group that this rank is in."""
        own: Any = dist.new_subgroups_by_enumeration(several, timeout=self._timeout)[0]
        return own
