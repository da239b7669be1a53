"""The blocks of AsymmDiT by way of torch.compile: one piece of code for all of them, for any size and prompt.

Kept apart, since torch.compile takes seconds to import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from ..quant import QuantLinear
from .attention import JointAttention

log = logging.getLogger(__name__)

LEAST_TEXT = 11
"""Text tokens that a compiled block has at least, padding if need be: torch.compile makes code of its own for sizes of
0 and 1. And where it first sees two sizes that are equal, it takes them for one: few of a network are primes."""

MOST_CODE = 64
"""Variants of one function, each for another kind of block, dtype, batch of one or several, or rank."""


def compile_blocks(blocks: Iterable[nn.Module], backend: str | Callable = "inductor") -> None:
    """Have the forward pass of each block compiled when it first runs.

    Weights are inputs of the code, which blocks of one kind share; numbers of tokens are variables in it. Attention,
    and what hosts and FSDP hang on a block, stay outside. If compiling fails, all blocks go on as they were, with a
    warning.
    """
    blocks = list(blocks)
    run = _Guard(lambda: _undo(blocks))
    for block in blocks:
        for module in block.modules():
            if type(module) is QuantLinear:
                module.__class__ = UncompiledQuantLinear
        if type(block.attn.joint) is JointAttention:
            block.attn.joint = UncompiledAttention(block.attn.joint.attend)
        plain = block.forward
        block.forward = _block(run, torch.compile(plain, dynamic=True, backend=backend), plain)


class UncompiledAttention(JointAttention):
    """A compiled block leaves its code where tokens meet, since how they do depends on the prompts' lengths."""

    @torch.compiler.disable
    def __call__(self, *args: Any) -> tuple[Tensor, Tensor]:
        x, y = super().__call__(*args)
        return _in_order(x), _in_order(y)


class UncompiledQuantLinear(QuantLinear):
    """Each layer has its own packing and patch, and would be compiled for itself."""

    forward = torch.compiler.disable(QuantLinear.forward)


class Lengths(Sequence):
    """Numbers that compiled code hands on without a look at them; it would hold for these numbers alone."""

    def __init__(self, values: Sequence[int]):
        self._values = values

    def __getitem__(self, index: int) -> int:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)


def _in_order(t: Tensor) -> Tensor:
    """In one order of memory, which compiled code is made for, be it a part of something longer or not."""
    return t[0].unsqueeze(0) if len(t) == 1 else t.contiguous()


def _block(run: _Guard, compiled: Callable, plain: Callable) -> Callable:
    # Not to be looked into when somebody compiles the whole model.
    @torch.compiler.disable(recursive=False)
    def forward(x: Tensor, y: Tensor, c: Tensor, rotary: Any, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        length = y.shape[1]
        text = F.pad(y, (0, 0, 0, LEAST_TEXT - length)) if length < LEAST_TEXT else y
        # Tokens of a single latent frame come from the embedding in another order of memory.
        x, text = run(compiled, plain, x.contiguous(), text, c, rotary, Lengths(text_lengths))
        return x, text[:, :length]

    return forward


class _Guard:
    """Runs compiled code, or says why it cannot."""

    def __init__(self, undo: Callable[[], None]):
        self._undo = undo
        self._limits: Any = torch._dynamo.config.patch(recompile_limit=MOST_CODE, fail_on_recompile_limit_hit=True)

    def __call__(self, compiled: Callable, plain: Callable, *args: Any) -> Any:
        try:
            with self._limits:
                return compiled(*args)
        except FailOnRecompileLimitHit:
            log.warning(
                "torch.compile has made as much code for the model's blocks as it may (%d variants of one function): "
                "what none of it fits runs without it, slower. TORCH_LOGS=recompiles tells why.",
                MOST_CODE,
            )
            # From here on torch leaves out by itself what is too much.
            self._limits = torch._dynamo.config.patch(recompile_limit=MOST_CODE)
            return compiled(*args)
        except TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])
            log.warning("torch.compile does not work here, and the model runs without it: %s", reason)
            self._undo()
            return plain(*args)


def _undo(blocks: Iterable[nn.Module]) -> None:
    for block in blocks:
        vars(block).pop("forward", None)
        if type(block.attn.joint) is UncompiledAttention:
            block.attn.joint = JointAttention(block.attn.joint.attend)
