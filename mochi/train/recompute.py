"""Activations that are computed again in the backward pass rather than kept, block by block."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..dit.levels import Vectors
from ..dit.runner import BlockCall, call_block
from .settings import Recompute

ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""torch's kernels of attention. Each gives its output and the log-sum-exp of its scores, which its gradients need."""


def call_for(recompute: Recompute) -> BlockCall:
    """How blocks are called while gradients are wanted; without them nothing is kept anyway.

    - "nothing": as they are. All that their gradients need is kept.
    - "blocks": their inputs are kept. A block is computed again before its gradients, dropout with the same masks.
    - "all but attention": the same, but the outputs of attention are kept too, and are not computed again.
    """
    if recompute == "nothing":
        return call_block
    options: dict[str, Any] = {"use_reentrant": False}
    if recompute == "all but attention":
        kept = [getattr(torch.ops.aten, name).default for name in ATTENTION]
        options["context_fn"] = partial(create_selective_checkpoint_contexts, kept)

    def call_again(
        block: nn.Module, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return call_block(block, x, y, c, rotary, text_lengths)
        return checkpoint(call_block, block, x, y, c, rotary, text_lengths, **options)

    return call_again
