"""The loop of a rank: joins the others, then answers requests until its owner closes the connection."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from ...device_memory import memory_used
from ...errors import Cancelled, MochiError
from ..owner.failures import OUT_OF_MEMORY

log = logging.getLogger("mochi.rank")


class Context:
    """What a service knows of its rank: number, device, the request in hand. timeout: of operations among ranks.

    service methods run in lockstep on all ranks, and may call `emit` (to the owner, at once) and `cancelled`.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, timeout: timedelta, connection: Connection, cancel: Any
    ):
        self.rank, self.size, self.device, self.timeout = rank, size, device, timeout
        self.request = 0
        self._connection, self._cancel = connection, cancel

    def emit(self, **payload: Any) -> None:
        """Send an event of the request in hand to the owner."""
        self._connection.send((self.request, "event", payload))

    def asked_to_cancel(self) -> bool:
        """Whether the request is cancelled, as this rank sees it: another may see it a moment later."""
        return self._cancel.value >= self.request

    def cancelled(self) -> bool:
        """Whether the request is cancelled: rank 0's answer, on all ranks. To be called in lockstep."""
        if self.size == 1:
            return self.asked_to_cancel()
        answer = torch.tensor([self.asked_to_cancel()], dtype=torch.uint8)
        dist.broadcast(answer, 0)
        return bool(answer.item())


def work(start: dict[str, Any]) -> None:
    """A rank's life. `start`: see Group."""
    connection: Connection = start["connection"]
    device = torch.device(start["device"])
    timeout = timedelta(seconds=start["timeout"] + 30)  # the owner notices first, and says more
    context = Context(start["rank"], start["size"], device, timeout, connection, start["cancel"])
    try:
        _join(context, start)
        service = _find(start["service"])(context)
    except BaseException as error:
        connection.send((0, "failed", _report(error)))
        raise
    connection.send((0, "done", {"pid": os.getpid()}))
    with torch.inference_mode():
        _serve(connection, context, service)
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(context: Context, start: dict[str, Any]) -> None:
    """Meet the other ranks through a file in the private folder. Nothing listens beyond the loopback."""
    torch.set_num_threads(start["threads"])
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    dist.init_process_group(
        _backend(context.device, start["devices"]),
        init_method=f"file://{start['folder']}/rendezvous",
        rank=context.rank,
        world_size=context.size,
        timeout=context.timeout,
    )
    meeting = torch.ones(1, device=context.device)
    dist.all_reduce(meeting)  # connects them now rather than in the middle of the first request
    log.info("rank %d of %d on %s, %d threads", context.rank, context.size, context.device, start["threads"])


def _backend(device: torch.device, devices: Sequence[str]) -> str:
    """NCCL among GPUs, unless ranks share one, which it refuses; gloo takes tensors of GPUs too, slowly."""
    is_shared = len(set(devices)) < len(devices)
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not is_shared else "gloo"


def _find(service: tuple[str, str]) -> type:
    """The class of a service: (module name or path of a file, class name)."""
    place, name = service
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _serve(connection: Connection, context: Context, service: Any) -> None:
    while True:
        try:
            context.request, method, arguments = connection.recv()
        except EOFError:
            return
        if method is None:
            return
        answer = _answer(context, service, method, arguments)
        try:
            connection.send((context.request, *answer))
        except (OSError, RuntimeError) as error:  # no room in shared memory, say
            connection.send((context.request, "failed", _report(error)))
        del arguments, answer  # nothing of a request stays until the next


def _answer(context: Context, service: Any, method: str, arguments: dict[str, Any]) -> tuple[str, Any]:
    started = time.monotonic()
    try:
        result = getattr(service, method)(**arguments)
    except Cancelled:
        return "cancelled", None
    except MochiError as error:
        return "refused", str(error)
    except BaseException as error:
        log.exception("%s failed", method)
        return "failed", _report(error)
    return "done", {"result": result, "seconds": time.monotonic() - started, "memory": memory_used(context.device)}


def _report(error: BaseException) -> dict[str, Any]:
    """What the owner tells a person. of_peer: the error follows from another rank's end."""
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}"
    is_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or OUT_OF_MEMORY.search(str(error))
    speaks_of_peer = isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS_OF_PEER)
    return {
        "text": text,
        "traceback": traceback.format_exc(),
        "of_peer": speaks_of_peer and not is_of_memory,
        "out_of_memory": bool(is_of_memory),
    }


_SIGNS_OF_PEER = ("onnection closed by peer", "onnection reset", "Broken pipe", "gloo", "NCCL")
