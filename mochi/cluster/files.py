"""Brings the files that this machine names to the machines of a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MochiError
from .actors import Actor
from .machines import Cluster, Machine
from .weights import Located, Receiver, Tree, WantedFile, check_room, complain, link_tree, locate, pieces
from .weights.folders import cache_folder

HASHING = 3600.0
"""Seconds in which a machine has read all files once, from however slow a disk."""

AHEAD = 2  # pieces that are on their way at a time

Tell = Callable[[str], None]


def bring(
    cluster: Cluster, machines: Sequence[Machine], wanted: Sequence[WantedFile], send: bool, tell: Tell
) -> list[Tree]:
    """Where each machine has the wanted files, by their paths here.

    Args:
        send: whether files that a machine lacks are sent to it.
        tell: hears what is sent, in words.

    Raises MochiError that lists machines and what they have.
    """
    if not wanted:
        return [Tree("")] * len(machines)
    found = _locate(cluster, machines, wanted)
    lacking = {machine: has.lacking for machine, has in zip(machines, found, strict=True) if has.lacking}
    if send and lacking:
        for machine, files in lacking.items():
            tell(f"sending {len(files)} files, {sum(file.nbytes for file in files) / 1e9:.1f} GB, to {machine.name}")
        _send(cluster, lacking)
        found = _locate(cluster, machines, wanted)
    complain({machine.name: has for machine, has in zip(machines, found, strict=True)})
    return [cluster.call([one], "cluster.files:link", has)[0] for one, has in zip(machines, found, strict=True)]


def _locate(cluster: Cluster, machines: Sequence[Machine], wanted: Sequence[WantedFile]) -> list[Located]:
    return cluster.call(machines, "cluster.files:look", tuple(wanted), seconds=HASHING)


def look(wanted: Sequence[WantedFile]) -> Located:
    """What the machine that is called has."""
    return locate(wanted)


def link(located: Located) -> Tree:
    """Links on the machine that is called, in the user's cache, where the next run finds them."""
    return link_tree(located, (cache_folder() or Path(f"/tmp/mochi-parallel-{os.getuid()}")) / "links")


def _send(cluster: Cluster, lacking: Mapping[Machine, Sequence[WantedFile]]) -> None:
    """Each file is read once, and each piece of it goes through Ray's object store, once to a machine."""
    inboxes = {
        machine: Actor(cluster, machine, "cluster.files:Inbox", (tuple(files),)) for machine, files in lacking.items()
    }
    try:
        _all([inbox.call("check") for inbox in inboxes.values()], list(inboxes.values()))
        for file in {file.sha256: file for files in lacking.values() for file in files}.values():
            _send_file(file, [inboxes[machine] for machine, files in lacking.items() if file in files])
    finally:
        for inbox in inboxes.values():
            inbox.kill()


def _send_file(file: WantedFile, inboxes: Sequence[Actor]) -> None:
    ray = inboxes[0].cluster.ray
    _all([inbox.call("begin", file) for inbox in inboxes], inboxes)
    under_way: list[list[Any]] = []
    for piece in pieces(file.path):
        ref = ray.put(piece)
        under_way.append([inbox.put(ref) for inbox in inboxes])
        if len(under_way) > AHEAD:
            _taken(under_way.pop(0), inboxes)
    for refs in under_way:
        _taken(refs, inboxes)
    _all([inbox.call("finish") for inbox in inboxes], inboxes)


def _taken(refs: Sequence[Any], inboxes: Sequence[Actor]) -> None:
    """Wait until all have taken a piece. Raises MochiError where a machine is gone."""
    for ref, inbox in zip(refs, inboxes, strict=True):
        inbox.cluster.wait(ref, inbox.machine)


def _all(refs: Sequence[Any], actors: Sequence[Actor]) -> list[Any]:
    return [actor.cluster.result(ref, actor.machine, HASHING) for ref, actor in zip(refs, actors, strict=True)]


class Inbox:
    """On a machine that lacks files: takes them, one after the other."""

    def __init__(self, lacking: Sequence[WantedFile]):
        self._lacking = lacking
        self._receiver: Receiver | None = None
        self._error: MochiError | None = None

    def check(self) -> None:
        check_room(None, self._lacking)

    def begin(self, file: WantedFile) -> None:
        self._receiver, self._error = Receiver(None, file), None

    def put(self, piece: bytes) -> None:
        """The next piece. What is wrong with it is told at the end of the file."""
        if self._receiver is None or self._error is not None:
            return
        try:
            self._receiver.take(piece)
        except MochiError as error:
            self._error = error

    def finish(self) -> None:
        """The file is whole, once all pieces are taken."""
        if self._error is not None:
            raise self._error
        if self._receiver is not None:
            self._receiver.finish()
            self._receiver = None
