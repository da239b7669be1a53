"""The blocks of AsymmDiT by way of torch.compile: one piece of code for all of them, for any size and prompt.

Kept apart, since torch.compile takes seconds to import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from ..packing import PackedLinear

log = logging.getLogger(__name__)


def compile_blocks(blocks: Iterable[nn.Module], backend: str | Callable = "inductor") -> None:
    """Have the forward pass of each block compiled when it first runs.

    Weights are inputs of the code, which blocks of one kind share; numbers of tokens are variables in it. What hosts
    and FSDP hang on a block stays outside. If compiling fails, all blocks go on as they were, with a warning.
    """
    blocks = list(blocks)
    for block in blocks:
        for module in block.modules():
            if type(module) is PackedLinear:
                module.__class__ = UncompiledPackedLinear
        plain = block.forward
        compiled = torch.compile(plain, dynamic=True, backend=backend)
        block.forward = _guarded(compiled, plain, lambda: _undo(blocks))


class UncompiledPackedLinear(PackedLinear):
    """Each layer has its own packing and patch, and would be compiled for itself."""

    forward = torch.compiler.disable(PackedLinear.forward)


def _guarded(compiled: Callable, plain: Callable, undo: Callable[[], None]) -> Callable:
    # Not to be looked into when somebody compiles the whole model.
    @torch.compiler.disable(recursive=False)
    def forward(*args: Any) -> Any:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            reason = " ".join(str(error).strip().splitlines()[:2])
            log.warning("torch.compile does not work here, and the model runs without it: %s", reason)
            undo()
            return plain(*args)

    return forward


def _undo(blocks: Iterable[nn.Module]) -> None:
    for block in blocks:
        vars(block).pop("forward", None)
