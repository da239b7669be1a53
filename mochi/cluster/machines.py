"""The machines of a Ray cluster."""

from __future__ import annotations

import importlib
import re
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from ..crossing import encode, result_of
from ..errors import MochiError

REACH = 2.0  # seconds in which a machine that is there answers


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster; on one host there can be several, in tests.

    Attributes:
        node: its number in Ray.
        name: for people, and like no other machine's.
        ip, port: where its raylet listens.
        gpus, cpus: as many as Ray may use.
        memory: bytes that Ray may use.
    """

    node: str
    name: str
    ip: str
    port: int
    gpus: int
    cpus: int
    memory: int

    def is_reached(self) -> bool:
        """Whether its raylet answers. Ray itself needs many seconds to notice that one does not."""
        return _is_reached(self.ip, self.port)


class RayHasEnded(MochiError, ConnectionError):
    """The cluster is gone, or this machine from it."""


class Cluster:
    """A cluster that this process is attached to."""

    def __init__(self, ray: ModuleType):
        self.ray = ray
        context = ray.get_runtime_context()
        self._own = next(_machine(node, True) for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        host, _, port = context.gcs_address.rpartition(":")
        self._head = host, int(port)
        self._names: dict[str, str] = {}  # by a machine's number, as it was first seen
        self._run = ray.remote(num_cpus=0, max_retries=0)(_caller())

    def check_there(self) -> None:
        """Raise RayHasEnded where the cluster's head, or Ray on this machine, does not answer.

        To be called first: without this machine's raylet Ray ends the process that asks, without the head it waits.
        """
        if not self._own.is_reached():
            raise RayHasEnded(
                f"Ray has ended on this machine ({self._own.name}). Start it again (ray start --head, or --address="
                "HOST:6379 where the head is on another machine), and repeat this."
            )
        if not _is_reached(*self._head):
            raise RayHasEnded(
                f"The head of the Ray cluster, {':'.join(map(str, self._head))}, does not answer. Start one again "
                "(ray start --head there, --address=HOST:6379 on the other machines), and repeat this."
            )

    def machines(self) -> list[Machine]:
        """Those that are there now, this one first, then by their addresses. Raises RayHasEnded."""
        self.check_there()
        own = self._own.node
        nodes = [node for node in self.ray.nodes() if node["Alive"]]
        hosts = Counter(node["NodeManagerHostname"] for node in nodes)
        machines = [_machine(node, hosts[node["NodeManagerHostname"]] == 1) for node in nodes]
        machines = [replace(each, name=self._names.setdefault(each.node, each.name)) for each in machines]
        with ThreadPoolExecutor(max(1, len(machines))) as threads:  # those that are gone take their time
            reached = list(threads.map(Machine.is_reached, machines))
        there = [machine for machine, is_there in zip(machines, reached, strict=True) if is_there]
        return sorted(there, key=lambda machine: (machine.node != own, machine.ip, machine.node))

    def on(self, machine: Machine) -> Any:
        """Ray's option that says that something runs on this machine and no other."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        return strategies.NodeAffinitySchedulingStrategy(machine.node, soft=False)

    def call(self, machines: Sequence[Machine], function: str, *arguments: Any, seconds: float = 120.0) -> list[Any]:
        """Call a function of our package on each machine, at the same time.

        function: its place in the package, as `cluster.facts:versions`.
        Raises MochiError that names the machine where it fails, or takes longer than that.
        """
        data = encode(arguments)
        refs = [self._run.options(scheduling_strategy=self.on(machine)).remote(function, data) for machine in machines]
        return [self.result(ref, machine, seconds) for ref, machine in zip(refs, machines, strict=True)]

    def result(self, ref: Any, machine: Machine, seconds: float | None = None) -> Any:
        """What `answer` gave on a machine. Raises MochiError where that failed, or took longer."""
        data = self.wait(ref, machine, seconds)
        try:
            return result_of(data)
        except MochiError as error:
            raise MochiError(f"Machine {machine.name}: {error}") from error

    def wait(self, ref: Any, machine: Machine, seconds: float | None = None) -> Any:
        """What a reference stands for, which is computed on a machine. Raises MochiError like `result`."""
        try:
            return self.ray.get(ref, timeout=seconds)
        except self.ray.exceptions.GetTimeoutError as error:
            raise MochiError(f"Machine {machine.name} did not answer within {seconds:.0f} s.") from error
        except self.ray.exceptions.RayError as error:
            raise MochiError(f"Machine {machine.name}: {in_words(error)}") from error


def _is_reached(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), REACH).close()
    except OSError:
        return False
    return True


def _machine(node: Mapping[str, Any], alone: bool) -> Machine:
    host, number, resources = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
    return Machine(
        number,
        host if alone else f"{host}-{number[:6]}",
        node["NodeManagerAddress"],
        node["NodeManagerPort"],
        int(resources.get("GPU", 0)),
        int(resources.get("CPU", 0)),
        int(resources.get("memory", 0)),
    )


def in_words(error: BaseException) -> str:
    """An error of Ray, for people: what was raised there, or how the process ended."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}"
    if getattr(error, "actor_init_failed", False):
        return str(error).strip().splitlines()[-1].removeprefix("mochi.errors.MochiError: ")  # of a traceback
    text = " ".join(str(error).split())
    if re.search("low on memory|OutOfMemory", text):
        return "its process was ended, since the machine ran out of memory"
    if type(error).__name__ in ("ActorDiedError", "ActorUnavailableError", "WorkerCrashedError"):
        return "its process has died; if nobody did that, the machine's memory may have been used up (see dmesg there)"
    return text or type(error).__name__


def _caller() -> Callable[[str, bytes], bytes]:
    """A function that is unpickled without our package, which under ComfyUI has a name that no machine knows."""

    def call(function: str, data: bytes) -> bytes:
        import importlib

        module, name = function.split(":")
        called = getattr(importlib.import_module(f"mochi.{module}"), name)
        return importlib.import_module("mochi.crossing").answer(called, data)

    return call
