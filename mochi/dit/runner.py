"""What may stand around the blocks of AsymmDiT.

The model runs to its end as `model.py` has it. What needs to interrupt it uses one of three ways, and no other:

- a `BlockRunner`, handed to `AsymmDiT.forward`: step cache, compiled blocks, a host's patches, tokens shared by ranks;
- `block.attn.joint`, where the tokens of both streams meet: another attention, heads shared by ranks;
- torch's own `fully_shard`, which hangs on the blocks as modules.
"""

from collections.abc import Callable, Collection, Sequence

from torch import Tensor, nn

from .levels import Vectors

BlockCall = Callable[[nn.Module, Tensor, Tensor, Vectors, Tensor, Sequence[int]], tuple[Tensor, Tensor]]
"""Calls a block with its inputs x, y, c, rotary and text_lengths; see `AsymmetricJointBlock`."""


def call_block(
    block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The block itself, and nothing around it."""
    return block(x, y, c, rotary, text_lengths)


def without(call: BlockCall, skipped: Collection[nn.Module]) -> BlockCall:
    """`call`, but both streams go by some blocks unchanged: the pass that skip-layer guidance leads away from."""

    def call_most(
        block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        return (x, y) if block in skipped else call(block, x, y, c, rotary, text_lengths)

    return call_most


def block_call(compiled: bool) -> BlockCall:
    """How blocks are called: as they are, or by way of torch.compile."""
    if not compiled:
        return call_block
    from .compiled import CompiledBlocks  # imports torch's compiler, which takes seconds

    return CompiledBlocks()


class BlockRunner:
    """Takes the visual tokens from the patch embedding through all blocks to the final layer.

    Args:
        call: how each block is called.
    """

    def __init__(self, call: BlockCall = call_block):
        self.call = call

    def enter(self, tokens: Tensor) -> Tensor:
        """All visual tokens (B, N, D_x), as embedded -> those that the blocks get."""
        return tokens

    def first_token(self, tokens: int) -> int:
        """The number of the first of those that the blocks get, among so many visual tokens."""
        return 0

    def run(
        self, blocks: nn.ModuleList, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> Tensor:
        """The visual tokens x after all blocks. The inputs are those of the first block."""
        for block in blocks:
            x, y = self.call(block, x, y, c, rotary, text_lengths)
        return x

    def leave(self, tokens: Tensor) -> Tensor:
        """The final layer's output for those tokens, (B, n, values of a patch) -> its output for all visual tokens."""
        return tokens


PLAIN = BlockRunner()
