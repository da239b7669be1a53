"""A group on the machines of a cluster that is there when it is needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...cluster.attach import attach
from ...cluster.facts import check_versions, smallest_gpu
from ...cluster.files import bring
from ...cluster.machines import Machine
from ...cluster.weights import absolute, files_of
from ..owner.group import Group
from ..owner.manager import GroupManager
from ..protocol import LoadDiT, LoadVAE
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
        super().__init__((), settings.timeout, **arguments)
        self._tell()
        if self.device_type == "cuda" and settings.sharding == "auto":
            self.smallest_gpu = smallest_gpu(self._cluster, self._machines())

    is_elsewhere = True

    @property
    def device_type(self) -> str:
        return self._posts[0].device.partition(":")[0]

    def _machines(self) -> list[Machine]:
        return list(dict.fromkeys(post.machine for post in self._posts))

    def _tell(self) -> None:
        """Note what others ask about the places of the ranks."""
        self.devices = tuple(f"{post.title} of {post.machine.name}" for post in self._posts)
        numbers = {node: number for number, node in enumerate(dict.fromkeys(post.machine.node for post in self._posts))}
        self.machines = [numbers[post.machine.node] for post in self._posts]

    def bring_files(self) -> None:
        """Those of all models, before the first of them is used: what is missing for the last is known at once."""
        named = {path for request in self.requests.values() for path in _files(request)} - self._brought
        if not named:
            return
        wanted = [file for path in named for file in files_of(path)]
        machines = self._machines()
        trees = bring(self._cluster, machines, wanted, self._settings.send_weights, log.warning)
        of_machine = dict(zip(machines, trees, strict=True))
        for worker, post in zip(self._actors.workers, self._posts, strict=True):
            worker.use_paths({str(path): str(of_machine[post.machine].local(absolute(path))) for path in named})
        self._brought |= named

    def _new_group(self, **more: Any) -> Group:
        self._cluster = attach(self._settings.cluster)  # another one, if this machine's Ray was started anew
        self._posts = place_ranks(self._cluster.machines(), self._settings)
        self._tell()
        check_versions(self._cluster, self._machines())
        self._brought: set[Path] = set()
        self._actors = Actors(self._cluster, self._posts, self._settings.interface)
        return super()._new_group(crew=lambda: self._actors, **more)


def _files(request: LoadDiT | LoadVAE) -> list[Path]:
    named = [request.path] if isinstance(request, LoadDiT) else [request.decoder, request.encoder]
    return [path for path in named if path is not None]
