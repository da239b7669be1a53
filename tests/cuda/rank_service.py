"""Ranks that talk over gloo, whatever their device: a pretended CUDA device each, or one real device for all."""

import sys
from pathlib import Path
from typing import Any

import torch

from mochi.parallel.worker.loop import Context
from mochi.parallel.worker.service import Rank

sys.path.insert(0, str(Path(__file__).parents[2]))  # the folder that `tests` is in


class OnOneDevice(Rank):
    """The service of ranks that share cuda:0, which NCCL refuses to."""

    def __init__(self, context: Context):
        context.device = torch.device("cuda", 0)
        torch.backends.cudnn.allow_tf32 = False
        self._cuda = self._device().__enter__()  # for the life of the rank
        super().__init__(context)

    def handle(self, request: Any) -> Any:
        if isinstance(request, tuple):
            method, arguments = request
            return getattr(self, method)(**arguments)
        return super().handle(request)

    def _device(self) -> Any:
        from tests.cuda.real import AgainstFormulas

        return AgainstFormulas()


class Pretended(OnOneDevice):
    """The service of a rank whose device is not there."""

    def _device(self) -> Any:
        from tests.cuda.pretend import PretendCuda

        return PretendCuda()

    def ledger(self) -> Any:
        """What was noted since the last call."""
        return self._cuda.ledger.take()
