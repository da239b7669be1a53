"""Blocks that a forward pass leaves out, on a rank that may have rows of their weights only."""

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from ...dit.levels import Vectors
from ...dit.runner import BlockCall
from .step_cache import sharded


def without(call: BlockCall, skipped: Collection[nn.Module]) -> BlockCall:
    """`mochi.dit.runner.without` for ranks.

    FSDP gathers the weights of a block from all ranks of a machine, and another group of guidance may run it there at
    the same time: a rank that leaves it out helps to gather.
    """

    def call_most(
        block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        if block not in skipped:
            return call(block, x, y, c, rotary, text_lengths)
        if (module := sharded(block)) is not None:
            module.unshard()
            module.reshard()
        return x, y

    return call_most
