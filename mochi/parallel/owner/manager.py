"""A group that is there when it is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..protocol import LoadDiT, LoadVAE, Unload
from .group import Group


class GroupManager:
    """Starts a group at the first use, and another one after a failure. Arguments: those of Group.

    Attributes:
        devices: one for each rank; as torch calls them, unless `is_elsewhere`.
        machines: the number of the machine of each rank; empty where all are on this one.
        is_elsewhere: whether the ranks can be on other machines.
        smallest_gpu: bytes of memory of the smallest of their GPUs, where that is not this process's to know.
        dropped: names of models that nobody refers to any more, to be unloaded at the next use.
        requests: to load the models that there are, by their names.
    """

    is_elsewhere = False
    smallest_gpu: int | None = None

    def __init__(
        self,
        devices: Sequence[str],
        timeout: float,
        log_folder: Path | None = None,
        machines: Sequence[int] = (),
        **arguments: Any,
    ):
        self.devices, self.timeout, self.machines = tuple(devices), timeout, machines
        self._arguments = {"log_folder": log_folder, **arguments}
        self.dropped: list[str] = []
        self.requests: dict[str, LoadDiT | LoadVAE] = {}
        self._group: Group | None = None

    @property
    def device_type(self) -> str:
        """ "cpu" or "cuda"."""
        return self.devices[0].partition(":")[0]

    @property
    def group(self) -> Group | None:
        """The group, if one runs now."""
        return self._group if self._group is not None and self._group.alive else None

    def use(self) -> Group:
        """The group; started if there is none. Raises GroupError or MochiError where it cannot be."""
        group = self.group
        if group is None:
            self.close()
            self._group = group = self._new_group()
        return group

    def _new_group(self, **more: Any) -> Group:
        return Group(self.devices, self.timeout, machines=self.machines, **self._arguments, **more)

    def bring_files(self) -> None:
        """See that the ranks of the group find the files that `requests` name. On one machine they do."""

    def release_dropped(self) -> None:
        """Unload the models that nobody refers to any more, if a group runs."""
        if self.dropped and self.group is not None:
            # One by one: the collector can add a name at any time.
            self.group.run(Unload([self.dropped.pop() for _ in range(len(self.dropped))]))

    def give_back(self) -> None:
        """Have the ranks return the memory that they hold and do not use, for other processes, if a group runs."""
        if self.group is not None:
            self.group.run(Unload())

    def close(self) -> None:
        """End the group, if there is one; the next use starts another."""
        if self._group is not None:
            self._group.close()
            self._group = None
