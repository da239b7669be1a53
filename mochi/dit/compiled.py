"""The blocks of AsymmDiT by way of torch.compile: one piece of code for all of them, for any size and prompt.

To be imported where compiled blocks are wanted: torch's compiler takes seconds to import.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from .levels import FrameVectors, Vectors

log = logging.getLogger(__name__)

LEAST_TEXT = 11
"""The fewest text tokens of a compiled block; shorter texts are padded. torch.compile makes separate code for sizes 0
and 1, and takes two sizes for one where they are equal at first. This is a prime, as few sizes of a network are."""

MOST_CODE = 64
"""The most variants of one function: for kinds of block, dtypes, ranks, and batches of one or several."""


class CompiledBlocks:
    """Calls blocks by compiled code, for a `BlockRunner`.

    Each kind of block is compiled when it first runs. Weights are inputs of the code, which blocks of one kind share;
    numbers of tokens are variables in it. Attention, quantised layers, and hooks of hosts and of FSDP stay outside. If
    compiling fails, all blocks are called as they are from then on, with a warning.

    Attributes:
        works: whether compiled code is used; False once compiling has failed.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor"):
        self.works = True
        self._backend = backend
        self._compiled: dict[nn.Module, Callable[..., tuple[Tensor, Tensor]]] = {}
        self._limits: Any = torch._dynamo.config.patch(recompile_limit=MOST_CODE, fail_on_recompile_limit_hit=True)

    # Not traced when somebody compiles the whole model.
    @torch.compiler.disable(recursive=False)
    def __call__(
        self, block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """See `BlockCall`."""
        if not self.works:
            return block(x, y, c, rotary, text_lengths)
        length = y.shape[1]
        text = F.pad(y, (0, 0, 0, LEAST_TEXT - length)) if length < LEAST_TEXT else y
        if isinstance(c, FrameVectors) and x.shape[1]:  # a rank can be without tokens
            c = c.for_compiled(x.shape[1])
        # Tokens of a single latent frame come from the embedding in another order of memory.
        x, text = self._run(block, x.contiguous(), text, c, rotary, Lengths(text_lengths))
        return x, text[:, :length]

    def _run(self, block: nn.Module, *inputs: Any) -> tuple[Tensor, Tensor]:
        if block not in self._compiled:
            self._compiled[block] = torch.compile(block, dynamic=True, backend=self._backend)
        compiled = self._compiled[block]
        try:
            with self._limits:
                return compiled(*inputs)
        except FailOnRecompileLimitHit:
            log.warning(
                "torch.compile has made as much code for the model's blocks as it may (%d variants of one function): "
                "what none of it fits runs without it, slower. TORCH_LOGS=recompiles tells why.",
                MOST_CODE,
            )
            # From here on torch itself runs uncompiled what exceeds the limit.
            self._limits = torch._dynamo.config.patch(recompile_limit=MOST_CODE)
            return compiled(*inputs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])
            log.warning("torch.compile does not work here, and the model runs without it: %s", reason)
            self.works = False
            return block(*inputs)


class Lengths(Sequence[int]):
    """Numbers that compiled code passes on unread. Otherwise it would be compiled for these numbers alone."""

    def __init__(self, values: Sequence[int]):
        self._values = values

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)
