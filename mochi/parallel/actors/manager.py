"""A group on the machines of a cluster that is there when it is needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...cluster.attach import attach
from ...cluster.facts import check_versions
from ..owner.group import Group
from ..owner.manager import GroupManager
from ..settings import ParallelSettings
from .crew import Actors, Post
from .placement import place_ranks

log = logging.getLogger(__name__)


class ClusterManager(GroupManager):
    """Attaches to the cluster and places the ranks; they start at the first use.

    After a failure they are placed anew, on the machines that are there then.
    Raises MochiError where there is no such cluster, or it has not what the settings ask for.
    """

    def __init__(self, settings: ParallelSettings, **arguments: Any):
        self._settings = settings
        self._cluster = attach(settings.cluster)
        self._posts: Sequence[Post] = place_ranks(self._cluster.machines(), settings)
        super().__init__(self._titles(), settings.timeout, **arguments)

    is_elsewhere = True

    @property
    def device_type(self) -> str:
        return self._posts[0].device.partition(":")[0]

    def _titles(self) -> tuple[str, ...]:
        return tuple(f"{post.title} of {post.machine.name}" for post in self._posts)

    def _new_group(self, **more: Any) -> Group:
        self._posts = place_ranks(self._cluster.machines(), self._settings)
        self.devices = self._titles()
        check_versions(self._cluster, list(dict.fromkeys(post.machine for post in self._posts)))
        crew = partial(Actors, self._cluster, self._posts, self._settings.interface)
        return super()._new_group(crew=crew, machines=_numbers(self._posts), **more)


def _numbers(posts: Sequence[Post]) -> list[int]:
    """The number of the machine of each post, from 0."""
    machines = list(dict.fromkeys(post.machine for post in posts))
    return [machines.index(post.machine) for post in posts]
