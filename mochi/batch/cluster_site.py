"""The machines of a Ray cluster as a site: each has places for as many workers as it has room for."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cluster.facts import check_versions
from ..cluster.files import Tell, bring
from ..cluster.machines import Cluster, Machine
from ..cluster.weights import Tree, WantedFile, absolute
from ..errors import MochiError
from ..parallel.actors.crew import Actors, Post
from ..parallel.owner.group import Group
from .requests import SERVICE
from .site import Place


@dataclass(frozen=True)
class Needs:
    """What a worker needs of its machine.

    Attributes:
        files: that it loads.
        paths: by which it is asked to load them: files, and folders that they are in.
        gpus: how many, if the machine has any; 0: all that it has.
        cpu: whether it stays on the CPU though there are GPUs.
        memory: bytes of the machine's, beside those of its GPUs.
        most: workers on one machine.
        timeout: seconds without progress after which it has failed.
        interface: see ParallelSettings.
        send: whether files that a machine lacks are sent to it.
    """

    files: Sequence[WantedFile]
    paths: Sequence[str]
    gpus: int
    cpu: bool
    memory: int
    most: int
    timeout: float
    interface: str = ""
    send: bool = False


class ClusterSite:
    """See Site. A machine that joins while videos are made has its places, too, once it has the files.

    tell: hears what is sent, in words. Raises MochiError that lists machines which have other versions or files.
    """

    def __init__(self, cluster: Cluster, needs: Needs, tell: Tell):
        self._cluster, self._needs, self._tell = cluster, needs, tell
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # one may take long to get files
        self._trees: dict[str, Tree] = {}  # by the machine's number in Ray
        machines = self._used()
        if not machines:
            there = "; ".join(f"{machine.name} ({machine.gpus} GPUs)" for machine in cluster.machines())
            raise MochiError(f"A worker is to have {needs.gpus} GPUs of its machine, but the cluster has: {there}.")
        self._prepare(machines)

    def places(self) -> Sequence[Place]:
        """The first place of each machine comes before the second of any."""
        posts = [posts_on(machine, self._needs) for machine in self._used()]
        in_turn = [(number, post) for of_machine in posts for number, post in enumerate(of_machine, 1)]
        return [ClusterPlace(self, post, number) for number, post in sorted(in_turn, key=lambda each: each[0])]

    def _used(self) -> list[Machine]:
        """All machines; only those with enough GPUs where any has some."""
        machines = self._cluster.machines()
        if self._needs.cpu or not any(machine.gpus for machine in machines):
            return machines
        return [machine for machine in machines if machine.gpus >= max(1, self._needs.gpus)]

    def _prepare(self, machines: Sequence[Machine]) -> None:
        check_versions(self._cluster, machines)
        trees = bring(self._cluster, machines, self._needs.files, self._needs.send, self._tell)
        self._trees |= {machine.node: tree for machine, tree in zip(machines, trees, strict=True)}

    def start(self, post: Post) -> Group:
        """A worker, see Place."""
        with self._locks[post.machine.node]:
            if post.machine.node not in self._trees:
                self._prepare([post.machine])
        tree, needs = self._trees[post.machine.node], self._needs
        actors = Actors(self._cluster, [post], needs.interface)
        group = Group((post.title,), needs.timeout, SERVICE, crew=lambda: actors)
        actors.workers[0].use_paths({path: str(tree.local(absolute(Path(path)))) for path in needs.paths})
        return group


class ClusterPlace:
    """See Place."""

    def __init__(self, site: ClusterSite, post: Post, number: int):
        self._site, self._post = site, post
        self.machine = post.machine.name
        self.name = f"{self.machine} worker {number}"

    def start(self) -> Group:
        return self._site.start(self._post)


def posts_on(machine: Machine, needs: Needs) -> list[Post]:
    """As many as the machine's GPUs and its memory have room for; one on a machine without GPUs."""
    if needs.cpu or not machine.gpus:
        return [Post(machine, "cpu", "cpu", 0, machine.cpus, max(1, machine.cpus))]
    room = machine.memory // needs.memory if needs.memory else needs.most
    each = needs.gpus or machine.gpus
    count = max(1, min(machine.gpus // each, room, needs.most))
    title = "a GPU" if each == 1 else f"{each} GPUs"
    return [Post(machine, "cuda:0", title, each, 0, max(1, machine.cpus // count))] * count
