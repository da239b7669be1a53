"""Which clips are in which batch: a matter of the seed and of a number, so that a run can go on from anywhere."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch

Indices = tuple[int, ...]


def generator_of(*numbers: int) -> torch.Generator:
    """A generator of random numbers for one purpose: the same for the same numbers, and like no other."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Order:
    """Batches of clips of one size. In an epoch each clip comes once, but that batches of a size are filled up.

    Args:
        sizes: of the clips. Only those alike can be in one batch.
    """

    def __init__(self, sizes: Sequence[Hashable], batch: int, seed: int):
        self._batch, self._seed = batch, seed
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for index, size in enumerate(sizes):
            alike[size].append(index)
        self._alike = list(alike.values())
        self.epoch = sum(-(-len(some) // batch) for some in self._alike)
        self._shuffled = lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, number: int) -> Indices:
        """The clips in a batch of the run, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.epoch)
        return self._shuffled(epoch)[place]

    def _shuffle(self, epoch: int) -> list[Indices]:
        generator, batches = generator_of(self._seed, epoch), []
        for alike in self._alike:
            mixed = [alike[i] for i in torch.randperm(len(alike), generator=generator).tolist()]
            lacking = -len(mixed) % self._batch
            mixed += [mixed[i % len(mixed)] for i in range(lacking)]
            batches += [tuple(mixed[i : i + self._batch]) for i in range(0, len(mixed), self._batch)]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
