"""A process group of which only one rank is there: what it computes and counts, without the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def fake_group(ranks: int, rank: int = 1) -> Iterator[None]:
    """Inside, this process is one of so many ranks. Its collectives send nothing, and what they receive is arbitrary.

    rank: the second by default, which as most of them has two neighbours, where there are more than two ranks.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the group's kind

    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
