"""The loop of a worker: joins the other ranks, then answers requests until its owner ends it."""

import importlib
import importlib.util
import logging
import multiprocessing
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ...device_memory import memory_used, speaks_of_no_memory
from ...errors import Cancelled, MochiError
from ..machines import machine_of_each
from ..protocol import END, Answer, Ask, Failed, FileMeeting, Left, Meeting, Refused, Reply, Start

log = logging.getLogger("mochi.rank")

OWNER_NOTICES_FIRST = 30.0
"""Operations among ranks wait so many seconds longer than the owner, whose error says more."""


class Channel(Protocol):
    """To the owner."""

    def send(self, message: Any) -> None: ...

    def receive(self) -> Any:
        """The next message. Raises EOFError where no more come."""


class Board(Protocol):
    """Says which request is cancelled, also while this process computes."""

    @property
    def cancelled(self) -> int:
        """The number of the newest request that is, and with it all before."""
        ...


class Context:
    """The rank, as its service knows it.

    A service's `handle(request)` runs in lockstep on all ranks, and may call `emit` and `cancelled`.

    Attributes:
        rank, size: its number, and how many ranks there are.
        machines: the number of the machine of each rank.
        timeout: of operations among ranks.
        request: number of the one in hand.
    """

    def __init__(self, start: Start, channel: Channel, board: Board):
        self.rank, self.size, self.request = start.rank, len(start.devices), 0
        self.device = torch.device(start.device)
        self.machines = machine_of_each(start.machines, self.size)
        self.timeout = timedelta(seconds=start.timeout + OWNER_NOTICES_FIRST)
        self._channel, self._board = channel, board

    def emit(self, progress: Any) -> None:
        """Tell the owner of the request in hand, at once."""
        self._channel.send(Reply(self.request, progress))

    def asked_to_cancel(self) -> bool:
        """Whether the request is cancelled, as this rank sees it: another may see it a moment later."""
        return self._board.cancelled >= self.request

    def cancelled(self) -> bool:
        """Whether the request is cancelled: rank 0's answer, on all ranks. To be called in lockstep."""
        if self.size == 1:
            return self.asked_to_cancel()
        answer = torch.tensor([self.asked_to_cancel()], dtype=torch.uint8)
        dist.broadcast(answer, 0)
        return bool(answer.item())


def work(channel: Channel, board: Board) -> None:
    """The life of a worker."""
    start: Start = channel.receive()
    context = Context(start, channel, board)
    try:
        _join(context, start)
        service = _find(start.service)(context)
    except BaseException as error:
        channel.send(Reply(0, failed(error)))
        raise
    channel.send(Reply(0, Answer(None, 0.0, 0)))
    with torch.inference_mode():
        _serve(channel, context, service)
    if dist.is_initialized():
        dist.destroy_process_group()


def _join(context: Context, start: Start) -> None:
    """Meet the other ranks."""
    torch.set_num_threads(start.threads)
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    dist.init_process_group(
        backend_for(context.device, start.devices),
        store=_store(start.meeting, context),
        rank=context.rank,
        world_size=context.size,
        timeout=context.timeout,
    )
    meeting = torch.ones(1, device=context.device)
    dist.all_reduce(meeting)  # connects them now rather than in the middle of the first request
    log.info("rank %d of %d on %s, %d threads", context.rank, context.size, context.device, start.threads)


def _store(meeting: Meeting, context: Context) -> Any:
    """What the ranks tell each other their addresses by. On one machine nothing listens beyond the loopback."""
    if isinstance(meeting, FileMeeting):
        multiprocessing.current_process().authkey = meeting.authkey
        # By the file's path: in a URL, # and ? would end it. The type checker does not know that FileStore is public.
        rendezvous = str(meeting.folder / "rendezvous")
        return dist.FileStore(rendezvous, context.size)  # pyright: ignore[reportPrivateImportUsage]
    listens = {} if meeting.listener is None else {"is_master": True, "master_listen_fd": meeting.listener}
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        meeting.host, meeting.port, context.size, timeout=context.timeout, wait_for_workers=False, **listens
    )


def backend_for(device: torch.device, devices: Sequence[str]) -> str:
    """NCCL among GPUs, unless ranks share one, which it refuses; gloo takes tensors of GPUs too, slowly."""
    is_shared = len(set(devices)) < len(devices)
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not is_shared else "gloo"


def _find(service: tuple[str, str]) -> type:
    """The class of a service: (module name or path of a file, class name)."""
    place, name = service
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _serve(channel: Channel, context: Context, service: Any) -> None:
    while True:
        try:
            ask: Ask = channel.receive()
        except EOFError:
            return
        if ask == END:
            return
        context.request = ask.number
        reply = Reply(ask.number, _handle(context, service, ask.request))
        try:
            channel.send(reply)
        except (OSError, RuntimeError) as error:  # no room in shared memory, say
            channel.send(Reply(ask.number, failed(error)))
        del ask, reply  # nothing of a request stays until the next


def _handle(context: Context, service: Any, request: Any) -> Answer | Left | Refused | Failed:
    started = time.monotonic()
    try:
        result = service.handle(request)
    except Cancelled:
        return Left()
    except MochiError as error:
        return Refused(error)
    except BaseException as error:
        log.exception("%s failed", getattr(request, "doing", request))
        return failed(error)
    return Answer(result, time.monotonic() - started, memory_used(context.device))


def failed(error: BaseException) -> Failed:
    """An error in the words that the owner passes on to a person."""
    text = str(error)
    first_line = next(iter(text.strip().splitlines()), "")
    is_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or speaks_of_no_memory(text)
    speaks_of_peer = isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS_OF_PEER)
    return Failed(
        f"{type(error).__name__}: {first_line}",
        traceback.format_exc(),
        of_peer=speaks_of_peer and not is_of_memory,
        out_of_memory=is_of_memory,
    )


_SIGNS_OF_PEER = ("onnection closed by peer", "onnection reset", "Broken pipe", "gloo", "NCCL")
