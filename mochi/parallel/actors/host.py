"""The inside of an actor: a worker, whose loop runs in a thread, and what joins it to its owner."""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import tempfile
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ...cluster.network import listen, socket_variables
from ...crossing import decode, encode
from ..owner.environment import rank_environment
from ..protocol import Ask
from ..worker.loop import work

BEAT = 0.5
"""Seconds after which `take` returns, with a message or as a sign of life."""

AT_A_TIME = 32 << 20
"""Bytes of messages after which `take` returns no more."""

log = logging.getLogger("mochi.rank")


class Host:
    """A worker in this process.

    Args:
        ip: of this machine, as the others reach it.
        interface: of the network for collectives; empty: the one that has that address.
        threads: of the worker.
    """

    def __init__(self, ip: str, interface: str, threads: int):
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
        warnings.simplefilter("ignore", FutureWarning)  # torch's warnings for developers would fill the log
        self._ip = ip
        self._sockets = socket_variables(ip, interface, os.environ)
        temporary = Path(tempfile.gettempdir())
        environment = {**rank_environment(os.environ, temporary, threads), **self._sockets}
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        self._listener: Any = None
        self._board, self._channel = HostBoard(), HostChannel()
        self._loop = threading.Thread(target=self._work, name="rank", daemon=True)
        self._loop.start()

    def listen(self) -> tuple[str, int, int]:
        """A port at which the other ranks can meet this one: host, port, and the descriptor of the socket there."""
        self._listener = listen(self._sockets["GLOO_SOCKET_IFNAME"], self._ip)  # kept: its descriptor is used
        host, port = self._listener.getsockname()
        return host, port, self._listener.fileno()

    def pid(self) -> int:
        return os.getpid()

    def cancel(self, request: int) -> None:
        self._board.cancelled = max(self._board.cancelled, request)

    def use_paths(self, paths: Mapping[str, str]) -> None:
        """Files that requests name, and where they are on this machine."""
        self._channel.paths |= paths

    def stacks(self) -> str:
        """Where each thread of this process is."""
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read()

    def put(self, data: bytes) -> None:
        """A message of the owner."""
        self._channel.inbox.put(data)

    def take(self) -> list[bytes] | None:
        """The messages to the owner, once there are some; none as a sign of life; None when the loop has ended."""
        messages: list[bytes] = []
        with suppress(queue.Empty):
            messages.append(self._channel.outbox.get(timeout=BEAT))
            while sum(map(len, messages)) < AT_A_TIME:
                messages.append(self._channel.outbox.get_nowait())
        return messages if messages or self._loop.is_alive() or not self._channel.outbox.empty() else None

    def _work(self) -> None:
        try:
            work(self._channel, self._board)
        except BaseException:
            log.exception("The worker has ended")  # its owner has been told


class HostBoard:
    """See Board in worker/loop.py."""

    cancelled = 0


class HostChannel:
    """See Channel in worker/loop.py. Messages cross by value.

    Attributes:
        paths: of files that requests name, to where they are on this machine.
    """

    def __init__(self) -> None:
        self.inbox: queue.Queue[bytes] = queue.Queue()
        self.outbox: queue.Queue[bytes] = queue.Queue()
        self.paths: dict[str, str] = {}

    def send(self, message: Any) -> None:
        self.outbox.put(encode(message))

    def receive(self) -> Any:
        message = decode(self.inbox.get())
        if isinstance(message, Ask) and message.request is not None:
            return message._replace(request=_moved(message.request, self.paths))
        return message


def _moved(request: Any, paths: Mapping[str, str]) -> Any:
    """A request with the paths of this machine."""
    if not paths or not is_dataclass(request):
        return request
    moved = {field.name: _local(getattr(request, field.name), paths) for field in fields(request)}
    return replace(request, **moved)  # pyright: ignore[reportArgumentType]


def _local(value: Any, paths: Mapping[str, str]) -> Any:
    """A path, or what has paths in it, with those of this machine."""
    if isinstance(value, (str, Path)):
        return type(value)(paths[str(value)]) if str(value) in paths else value
    if type(value) in (list, tuple):
        return type(value)(_local(each, paths) for each in value)
    return value
