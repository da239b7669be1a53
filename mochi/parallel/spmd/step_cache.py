"""The step cache of a rank, which has some of the visual tokens and perhaps only rows of the weights."""

from typing import Any

import torch
from torch import Tensor, nn

from ...dit.cache import CachePlan, StepCache
from ...dit.levels import Vectors
from .collectives import Peers


class SharedStepCache(StepCache):
    """A step cache that decides as on a single device, and alike on all ranks that share a pass.

    These ranks add up what each has seen, in the same order, to the same sums.

    Groups of guidance, each at a pass of its own, need not agree: they meet again when both have their results. FSDP
    however gathers a block's weights from all ranks of a machine, those of the other group too. So where weights are
    sharded, a group that skips its blocks helps to gather them if the other runs its own. To compute there as well
    would cost no time, but the video would then depend on the number of GPUs.

    Args:
        ulysses: the ranks that share a pass.
        guidance: the ranks with the same tokens in all groups of guidance.
    """

    def __init__(self, plan: CachePlan, ulysses: Peers, guidance: Peers):
        super().__init__(plan)
        self._ulysses, self._guidance = ulysses, guidance

    def first_input(self, block: nn.Module, x: Tensor, c: Vectors) -> Tensor:
        if (module := sharded(block)) is not None:
            module.unshard()
        return super().first_input(block, x, c)

    def total(self, sums: Tensor) -> Tensor:
        return self._ulysses.all_gather(sums).wait().sum(0)

    def decided(self, blocks: nn.ModuleList, run: bool, device: torch.device) -> None:
        modules = [sharded(block) for block in blocks]
        if modules[0] is None:
            return
        wanted = self._guidance.all_gather(torch.tensor([run], dtype=torch.uint8, device=device)).wait()
        if not run:
            for block in modules if wanted.any() else modules[:1]:  # the first is here already
                block.unshard()
                block.reshard()


def sharded(block: nn.Module) -> Any:
    """The block, if it is one of FSDP's modules; else None. Their class takes a second to import."""
    return block if hasattr(block, "unshard") else None
