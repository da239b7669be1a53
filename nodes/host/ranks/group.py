"""The one group of ranks of this process: who keeps it, and how a node waits for it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as mm
import folder_paths
from torch import nn

from ....mochi.errors import GroupError
from ....mochi.parallel.owner.client import RemoteDiT, RemoteModel, Work, finish
from ....mochi.parallel.owner.group import Group
from ....mochi.parallel.owner.manager import GroupManager
from ....mochi.parallel.protocol import (
    Event,
    GetStatus,
    Progress,
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
    """At most one group runs: ranks of two would share the same devices. Models that agree on devices and timeout
    share it, others take turns. It is asked one thing at a time, under `lock`.
    """

    def __init__(self) -> None:
        self.running: HostManager | None = None
        self.lock = threading.Lock()
        self._managers: weakref.WeakValueDictionary[tuple, HostManager] = weakref.WeakValueDictionary()
        self._titles: weakref.WeakKeyDictionary[RemoteModel, str] = weakref.WeakKeyDictionary()

    def manager_for(self, settings: ParallelSettings) -> HostManager:
        """The manager of a group as these settings want it; it starts nothing yet.

        Raises MochiError where there are too few devices.
        """
        key = (settings.devices(), settings.timeout)
        manager = self._managers.get(key)
        if manager is None:
            logs = Path(folder_paths.get_user_directory(), "mochi-parallel")
            manager = self._managers[key] = HostManager(self, *key, log_folder=logs, place=PLACE)
        return manager

    def introduce(self, model: nn.Module, title: str) -> None:
        """Know what the host has for a remote model (`model.remote`): for `status`, and to see its end."""
        remote: RemoteModel = model.remote
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

    def status(self) -> str:
        """Ranks, devices, processes, memory and models of the group that runs now."""
        with self.lock:
            group = self.running.group if self.running is not None else None
            if group is None:
                return "No group runs."
            answers = group.run(GetStatus())
        lines = [describe(self.running)]
        for rank, (device, pid, answer) in enumerate(zip(group.devices, group.pids, answers)):
            lines.append(f"rank {rank}: {device}, process {pid}, {size_text(answer.memory)}")
        models = [_model_text(model, title) for model, title in self._titles.items() if model.loaded]
        return "\n".join([*lines, *(sorted(models) or ["No model is loaded."])])


groups = Groups()


class HostManager(GroupManager):
    """Keeps a group that takes turns with others, and whose start is told in the node."""

    def __init__(self, among: Groups, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._among = among

    def use(self) -> Group:
        self._among.take_turn(self)
        if self.group is None:
            show_text(f"starting {describe(self)}")
        return super().use()


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
        self._split = ""
        self._memory: dict[int, int] = {}
        self._loaded: dict[int, int] = {}
        self._told = (0, 0)

    def tell(self, event: Event) -> None:
        told = event.payload
        if isinstance(told, TensorLoaded):
            self._tell_loading(event.rank, told.done, told.total)
            return
        if isinstance(told, SplitChosen):
            self._split = told.split
        if isinstance(told, (StepDone, StripDecoded)):
            self._memory[event.rank] = told.memory
        if event.rank == 0 and told.phase:
            show_text(self._text(told))

    def _tell_loading(self, rank: int, done: int, total: int) -> None:
        """How far the slowest rank is, and how many are ready."""
        self._loaded[rank] = done
        size = len(groups.running.devices)
        slowest = min(self._loaded.get(other, 0) for other in range(size))
        ready = sum(loaded == total for loaded in self._loaded.values())
        if (slowest, ready) != self._told:
            self._told = slowest, ready
            show_text(f"loading: tensor {slowest} of {total} · {ready} of {size} ranks ready")

    def _text(self, told: Progress) -> str:
        ranks = describe(groups.running) + (f", {self._split}" if self._split else "")
        parts = [ranks, told.phase]
        if isinstance(told, StepDone):
            parts.append(f"{told.seconds:.1f} s")
        if self._memory:
            parts.append(f"{size_text(max(self._memory.values()))} a rank")
        return " · ".join(parts)


def _model_text(model: RemoteModel, title: str) -> str:
    text = f"{title}: {size_text(model.nbytes)} a rank, loads: {model.loads}"
    return f"{text}\n  attention: {model.attention}" if isinstance(model, RemoteDiT) else text


def describe(manager: GroupManager) -> str:
    """Such as "2 ranks on cpu"."""
    return f"{len(manager.devices)} ranks on {', '.join(dict.fromkeys(manager.devices))}"


def size_text(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
