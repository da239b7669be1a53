"""A crew of actors on the machines of a Ray cluster."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...cluster.actors import Actor
from ...cluster.machines import Cluster, Machine, RayHasEnded, in_words
from ...crossing import decode, encode
from ...errors import GroupError, MochiError
from ..owner.failures import RankState
from ..protocol import PortMeeting, Start

PLACING = 180.0
"""Seconds in which Ray must find room for a worker. On a machine where other work holds the GPUs it never does."""

SILENT = 4.0
"""Seconds without a sign of life, which comes twice a second, after which it is asked whether the machine answers."""

ASKING = 2.0  # seconds between two such questions, and for an actor to tell of itself


@dataclass(frozen=True)
class Post:
    """A place for a worker.

    Attributes:
        device: of the worker, as torch calls it in its own process, to which Ray shows its own GPUs only.
        title: of the device, for people.
        gpus, cpus: that Ray keeps for the worker.
        threads: of the worker.
    """

    machine: Machine
    device: str
    title: str
    gpus: int
    cpus: float
    threads: int


class Actors:
    """See Crew. Each worker is an actor; what is said goes through Ray, what ranks compute through gloo or NCCL.

    Args:
        posts: one for each rank.
        interface: of the network for collectives, on every machine; empty: the one by which Ray reaches it.
    """

    def __init__(self, cluster: Cluster, posts: Sequence[Post], interface: str = ""):
        self._cluster, self._posts, self._interface = cluster, posts, interface
        self.workers: list[ActorWorker] = []
        self.board = ActorBoard(self.workers)

    def start(self, service: tuple[str, str], timeout: float, machines: Sequence[int]) -> None:
        for rank, post in enumerate(self._posts):
            actor = self._actor(post)
            self.workers.append(ActorWorker(rank, post, actor))
        for worker in self.workers:
            worker.begin()
        names = [f"{post.machine.name} {post.title}" for post in self._posts]
        host, port, descriptor = self.workers[0].actor.ask("listen", seconds=PLACING)
        for worker, post in zip(self.workers, self._posts, strict=True):
            meeting = PortMeeting(host, port, None if worker.rank else descriptor)
            start = Start(worker.rank, names, post.threads, timeout, service, meeting, post.device, machines)
            worker.actor.put(encode(start))

    def _actor(self, post: Post) -> Actor:
        arguments = (post.machine.ip, self._interface, post.threads)
        return Actor(self._cluster, post.machine, "parallel.actors.host:Host", arguments, post.cpus, post.gpus)

    def send(self, message: Any) -> None:
        """It crosses once to each machine."""
        try:
            self._cluster.check_there()
            ref = self._cluster.ray.put(encode(message))
            for worker in self.workers:
                worker.actor.put(ref)
        except (RayHasEnded, self._cluster.ray.exceptions.RayError) as error:
            raise GroupError(f"A request could not be sent to the ranks: {error}") from error

    def keep_logs(self) -> str:
        with ThreadPoolExecutor(len(self.workers)) as threads:
            list(threads.map(ActorWorker.find_out, self.workers))
        return "on each machine in /tmp/ray/session_latest/logs"

    def end(self, patience: float) -> None:
        end = time.monotonic() + patience
        for worker in self.workers:
            worker.wait(max(0.0, end - time.monotonic()))
        for worker in self.workers:
            with suppress(Exception):  # it is gone, or Ray is
                worker.actor.kill()
        end = time.monotonic() + ASKING
        for worker in self.workers:
            worker.wait(max(0.0, end - time.monotonic()))


class ActorBoard:
    """See Board in owner/crew.py."""

    def __init__(self, workers: Sequence[ActorWorker]):
        self._workers = workers

    def cancel(self, request: int) -> None:
        for worker in self._workers:
            with suppress(Exception):  # it is gone: who waits for its answer finds out
                worker.actor.call("cancel", request)

    @property
    def beats(self) -> list[float]:
        return [worker.heard for worker in self._workers]


class ActorWorker:
    """See Worker in owner/crew.py. A thread reads what the actor sends.

    Attributes:
        heard: when it last showed that it lives, in seconds of time.monotonic.
    """

    def __init__(self, rank: int, post: Post, actor: Actor):
        self.rank, self.actor, self.pid = rank, actor, 0
        self.state = RankState(rank, f"{post.title} of machine {post.machine.name}", None)
        self.channel = ActorChannel()
        self.heard = time.monotonic()
        self._machine, self._title = post.machine, post.title
        self._asked = 0.0  # when it was asked whether the machine answers
        self._reader: threading.Thread | None = None

    def begin(self) -> None:
        """Wait until it is placed, and read what it sends from then on."""
        try:
            self.pid = self.actor.ask("pid", seconds=PLACING)
        except MochiError as error:
            no_room = type(error.__cause__).__name__ == "GetTimeoutError"
            raise GroupError(
                f"No worker could start on machine {self._machine.name} ({self._title}): {error}"
                + (" Other work may hold its GPUs or processors: `ray status` shows what is taken." if no_room else "")
            ) from error
        self.heard = time.monotonic()
        self._reader = threading.Thread(target=self._read, name=f"rank {self.rank}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while (messages := self.actor.take()) is not None:
                self.heard = time.monotonic()
                for data in messages:
                    self.channel.arrived(data)
        except Exception as error:
            self._ended(f"is gone: {in_words(error)}")
        else:
            self._ended("has ended")
        finally:
            self.channel.arrived(None)

    def _ended(self, how: str) -> None:
        if not self.state.ended:
            reached = self._machine.is_reached()
            self.state.ended = how if reached else f"is gone, since machine {self._machine.name} does not answer"

    @property
    def exitcode(self) -> int | None:
        return None  # Ray does not tell; see `state.ended`

    @property
    def is_alive(self) -> bool:
        if self.state.ended or self._reader is None or not self._reader.is_alive():
            return False
        now = time.monotonic()
        if now - self.heard > SILENT and now - self._asked > ASKING:
            self._asked = now
            if not self._machine.is_reached():
                self._ended("is gone")
        return not self.state.ended

    def find_out(self) -> None:
        """After a failure: look whether it and its machine are there. Peers that miss it can be heard before Ray."""
        if self.state.ended or (self.state.report is not None and not self.state.report.of_peer):
            return
        if not self._machine.is_reached():
            self._ended("is gone")
            return
        try:
            self.actor.ask("pid", seconds=ASKING)
        except MochiError:
            self.wait(ASKING)  # its reader is told the same

    def use_paths(self, paths: Mapping[str, str]) -> None:
        """Tell it where files that requests name are on its machine."""
        self.actor.ask("use_paths", paths, seconds=PLACING)

    def show_stacks(self) -> None:
        with suppress(MochiError):
            self.state.stacks = self.actor.ask("stacks", seconds=ASKING)

    def wait(self, seconds: float) -> None:
        """Returns when it has ended, or after so many seconds."""
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(seconds)


class ActorChannel:
    """See Channel in owner/crew.py. The reader's thread fills it."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._count = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_CLOEXEC)  # of the messages that are there

    def __del__(self) -> None:
        os.close(self._count)

    def fileno(self) -> int:
        return self._count

    def arrived(self, data: bytes | None) -> None:
        """A message is there; None stands for the end."""
        self._messages.put(data)
        os.eventfd_write(self._count, 1)

    def receive(self) -> Any:
        os.eventfd_read(self._count)
        data = self._messages.get()
        if data is None:
            raise EOFError
        return decode(data)
