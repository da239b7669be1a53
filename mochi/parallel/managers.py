"""The manager of a group, as a person's settings want it: on this machine, or on those of a cluster."""

from typing import Any

from .actors.manager import ClusterManager
from .owner.manager import GroupManager
from .settings import ParallelSettings


def manager_for(settings: ParallelSettings, **arguments: Any) -> GroupManager:
    """Starts no process yet. Arguments: more of those of Group.

    Raises MochiError where devices, machines or the cluster are not there.
    """
    if settings.cluster:
        return ClusterManager(settings, **arguments)
    return GroupManager(settings.devices(), settings.timeout, **arguments)
