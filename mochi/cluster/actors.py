"""Actors: objects of our package that live in processes of their own on the machines of a cluster."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..crossing import encode
from .machines import Cluster, Machine

CALLS = 2  # that an actor answers at a time, beside what it takes and gives


class Actor:
    """An actor as its owner sees it. It ends with its owner, by whatever means that ends.

    Args:
        made_by: a function or class of our package that makes the object, as `parallel.actors.host:Host`.
        arguments: for that.
        cpus, gpus: that Ray keeps for it.
    """

    def __init__(
        self, cluster: Cluster, machine: Machine, made_by: str, arguments: tuple = (), cpus: float = 0, gpus: int = 0
    ):
        self.cluster, self.machine = cluster, machine
        self._handle = (
            _shell(cluster.ray)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                scheduling_strategy=cluster.on(machine),
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(made_by, encode(arguments))
        )

    def call(self, method: str, *arguments: Any) -> Any:
        """A reference to what the method returns, encoded; it is called beside all that runs."""
        return self._handle.call.remote(method, encode(arguments))

    def ask(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        """Call a method and wait. Raises MochiError that names the machine where it fails."""
        return self.cluster.result(self.call(method, *arguments), self.machine, seconds)

    def put(self, data: Any) -> Any:
        """Give the object's `put` a value, or a reference to one; in order. A reference, for `Cluster.wait`."""
        return self._handle.put.remote(data)

    def take(self) -> Any:
        """What the object's `take` returns, which may wait. Raises Ray's own errors where the actor is gone."""
        return self.cluster.ray.get(self._handle.take.remote())

    def kill(self) -> None:
        """End it at once."""
        self.cluster.ray.kill(self._handle)


@cache
def _shell(ray: Any) -> Any:
    """Ray's class of actors around one that is unpickled without our package. Under ComfyUI that has a name which no
    machine knows."""

    class Shell:
        def __init__(self, made_by: str, arguments: bytes):
            import importlib

            decode = importlib.import_module("mochi.crossing").decode

            module, name = made_by.split(":")
            self._inner = getattr(importlib.import_module(f"mochi.{module}"), name)(*decode(arguments))

        @ray.method(concurrency_group="call")
        def call(self, method: str, data: bytes) -> bytes:
            import importlib

            return importlib.import_module("mochi.crossing").answer(getattr(self._inner, method), data)

        @ray.method(concurrency_group="put")
        def put(self, data: Any) -> None:
            self._inner.put(data)

        @ray.method(concurrency_group="take")
        def take(self) -> Any:
            return self._inner.take()

    return ray.remote(concurrency_groups={"call": CALLS, "put": 1, "take": 1})(Shell)
