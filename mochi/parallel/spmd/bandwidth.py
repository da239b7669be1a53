"""The bandwidth between machines, measured over what their ranks use: gloo or NCCL."""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ..machines import ranks_of_each

SIZES = (2**20, 2**20, 2**23, 2**26)
"""Bytes that are sent, one message after the other. The first connects, and does not count."""

LONG_ENOUGH = 0.4
"""Seconds: after a message that took so long there is no larger one."""


def bandwidth_between(machines: Sequence[int], device: torch.device) -> float:
    """Bytes a second that a machine sends to the next one while it receives as many, from first rank to first rank.

    All ranks call it, and get the same: the best rate of a few messages, since a machine that does something else for a
    moment makes one late. It takes a second over most networks.

    Args:
        machines: the number of the machine of each rank, of two machines at least.
    """
    rank, firsts = dist.get_rank(), [ranks[0] for ranks in ranks_of_each(machines).values()]
    give, take = [0] * len(machines), [0] * len(machines)
    if rank in firsts:
        place = firsts.index(rank)
        give[firsts[(place + 1) % len(firsts)]] = take[firsts[place - 1]] = 1
    rates: list[float] = []
    for nbytes in SIZES:
        seconds = _seconds(nbytes, give, take, device)
        rates.append(nbytes / seconds)
        if seconds >= LONG_ENOUGH and len(rates) > 1:
            break
    return max(rates[1:])


def _seconds(nbytes: int, give: Sequence[int], take: Sequence[int], device: torch.device) -> float:
    """How long so many bytes are on their way, for the slowest rank. give, take: to and from which ranks."""
    leaving = torch.zeros(nbytes * sum(give), dtype=torch.uint8, device=device)
    arrived = torch.empty(nbytes * sum(take), dtype=torch.uint8, device=device)
    sizes = [nbytes * n for n in take], [nbytes * n for n in give]
    dist.all_reduce(torch.zeros(1, device=device))  # all are here
    _wait_for(device)
    started = time.perf_counter()
    dist.all_to_all_single(arrived, leaving, *sizes)
    _wait_for(device)
    taken = torch.tensor([time.perf_counter() - started], dtype=torch.float64, device=device)
    dist.all_reduce(taken, dist.ReduceOp.MAX)
    return taken.item()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
