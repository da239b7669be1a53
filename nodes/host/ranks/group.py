"""The one group of ranks of this process: who keeps it, and how a node waits for it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import comfy.model_management as mm
import folder_paths

from ....mochi.errors import GroupError
from ....mochi.parallel.actors.manager import ClusterManager
from ....mochi.parallel.owner.client import RemoteDiT, RemoteModel, Work, finish
from ....mochi.parallel.owner.group import Group
from ....mochi.parallel.owner.manager import GroupManager
from ....mochi.parallel.protocol import (
    Event,
    GetStatus,
    SplitChosen,
    StepDone,
    StripDecoded,
    TensorLoaded,
    Unload,
)
from ....mochi.parallel.settings import ParallelSettings
from ..progress import show_text

log = logging.getLogger(__name__)

PLACE = " in Mochi Parallel Settings"
"""Where a person finds the settings of a group, to follow their names in messages."""

Result = TypeVar("Result")


class Groups:
    """At most one group runs, since the ranks of two would share the same devices.

    Models that agree on devices and timeout share a group, others take turns. A group gets one request at a time, under
    `lock`.
    """

    def __init__(self) -> None:
        self.running: HostManager | None = None
        self.lock = threading.Lock()
        self._managers: weakref.WeakValueDictionary[tuple, HostManager] = weakref.WeakValueDictionary()
        self._titles: weakref.WeakKeyDictionary[RemoteModel, str] = weakref.WeakKeyDictionary()

    @property
    def at_work(self) -> HostManager:
        """The manager of the ranks that answer a request now."""
        assert self.running is not None
        return self.running

    def manager_for(self, settings: ParallelSettings) -> HostManager:
        """The manager of a group as these settings want it; it starts nothing yet.

        Raises MochiError where there are too few devices.
        """
        key = _key(settings)
        manager = self._managers.get(key)
        if manager is None:
            logs = Path(folder_paths.get_user_directory(), "mochi-parallel")
            if settings.cluster:
                manager = HostClusterManager(settings, log_folder=logs, place=PLACE)
            else:
                manager = HostManager(settings.devices(), settings.timeout, log_folder=logs, place=PLACE)
            self._managers[key] = manager
        return manager

    def introduce(self, model: object, remote: RemoteModel, title: str) -> None:
        """Give a remote model a title for `status`. Its memory is freed once the host drops `model`, its own object for
        it."""
        self._titles[remote] = title
        weakref.finalize(model, self._release, remote.manager, remote.name).atexit = False

    def _release(self, manager: GroupManager, name: str) -> None:
        """Free the memory of a model that the host has dropped. A group at work does so before its next request."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if manager.group is not None:
                manager.group.run(Unload([name]))
        except GroupError:
            log.exception("The group failed as a model was unloaded")
        finally:
            self.lock.release()

    def take_turn(self, manager: HostManager) -> None:
        """End the group of any other manager."""
        other, self.running = self.running, manager
        if other is not None and other is not manager and other.group is not None:
            log.warning(
                "The group of %s ends, since a model asks for %s. Give all loaders the same GPUs and timeout, and they "
                "share one group.",
                describe(other),
                describe(manager),
            )
            other.close()

    def close(self) -> None:
        """End the group that runs, if one does."""
        with self.lock:
            if self.running is not None:
                self.running.close()

    def status(self) -> str:
        """Ranks, devices, processes, memory and models of the group that runs now."""
        with self.lock:
            manager = self.running
            group = None if manager is None else manager.group
            if manager is None or group is None:
                return "No group runs."
            answers = group.run(GetStatus())
        lines = [describe(manager)]
        for rank, (device, pid, answer) in enumerate(zip(group.devices, group.pids, answers)):
            lines.append(f"rank {rank}: {device}, process {pid}, {size_text(answer.memory)}")
        models = [_model_text(model, title) for model, title in self._titles.items() if model.loaded]
        return "\n".join([*lines, *(sorted(models) or ["No model is loaded."])])


groups = Groups()


def _key(settings: ParallelSettings) -> tuple:
    """What models must agree on to share a group."""
    if not settings.cluster:
        return settings.devices(), settings.timeout
    network = settings.interface, settings.send_weights
    return settings.cluster, settings.machines, settings.gpus, settings.cpu, *network, settings.timeout


class HostManager(GroupManager):
    """Keeps a group that takes turns with others, and whose start is told in the node."""

    def use(self) -> Group:
        groups.take_turn(self)
        if self.group is None:
            show_text(f"starting {describe(self)}")
        return super().use()


class HostClusterManager(HostManager, ClusterManager):
    """The same, of a group on the machines of a cluster."""


def follow(work: Work[Result], on_event: Callable[[Event], None] | None = None) -> Result:
    """Run work of the ranks to its end, in the node's own thread; what they tell is shown in the node.

    A cancel, or an exception of `on_event`, ends the work on all ranks at the same step; the group stays.
    """
    teller = _Teller()

    def hear(event: Event) -> None:
        teller.tell(event)
        if on_event is not None:
            on_event(event)

    with groups.lock:
        return finish(work, hear, mm.throw_exception_if_processing_interrupted)


class _Teller:
    """Puts the events of a request into the words that the node shows."""

    def __init__(self) -> None:
        self._split = self._shown = ""
        self._memory: dict[int, int] = {}  # bytes, by rank
        self._loaded: dict[int, int] = {}  # tensors, by rank

    def tell(self, event: Event) -> None:
        rank, told = event
        if isinstance(told, TensorLoaded):
            self._loaded[rank] = told.done
            self._show(self._loading(told.total))
            return
        if isinstance(told, SplitChosen):
            self._split = f", {told.split}"
        if isinstance(told, (StepDone, StripDecoded)):
            self._memory[rank] = told.memory
        if rank == 0 and told.phase:
            seconds = [f"{told.seconds:.1f} s"] if isinstance(told, StepDone) else []
            memory = [f"{size_text(max(self._memory.values()))} a rank"] if self._memory else []
            self._show(" · ".join([describe(groups.at_work) + self._split, told.phase, *seconds, *memory]))

    def _loading(self, total: int) -> str:
        """How far the slowest rank is, and how many are ready; empty before any rank tells of that."""
        size = len(groups.at_work.devices)
        slowest = min(self._loaded.values()) if len(self._loaded) == size else 0
        ready = sum(done == total for done in self._loaded.values())
        return f"loading: tensor {slowest} of {total} · {ready} of {size} ranks ready" if slowest or ready else ""

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._shown = text
            show_text(text)


def _model_text(model: RemoteModel, title: str) -> str:
    text = f"{title}: {size_text(model.nbytes)} a rank, loads: {model.loads}"
    return f"{text}\n  attention: {model.attention}" if isinstance(model, RemoteDiT) else text


def describe(manager: GroupManager) -> str:
    """Such as "2 ranks on cpu"."""
    return f"{len(manager.devices)} ranks on {', '.join(dict.fromkeys(manager.devices))}"


def size_text(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
