"""Ranks that talk over gloo, whatever their device: a pretended CUDA device each, or one real device for all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from mochi.parallel.rank import Rank
from mochi.parallel.worker import Context

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder that `tests` is in


class OnOneDevice(Rank):
    """The service of ranks that share cuda:0, which NCCL refuses to."""

    def __init__(self, context: Context):
        context.device = torch.device("cuda", 0)
        super().__init__(context)


class Pretended(OnOneDevice):
    """The service of a rank whose device is not there."""

    def __init__(self, context: Context):
        from tests.cuda.pretend import PretendCuda

        self._cuda = PretendCuda().__enter__()  # for the life of the rank
        super().__init__(context)

    def ledger(self) -> Any:
        """What was noted since the last call."""
        return self._cuda.ledger.take()

