"""Joint attention of the visual and the text stream.

B batch, N visual tokens, L text tokens, h heads, d head width.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DiTConfig
from .backends import Attend, sdpa
from .heads import PackedQKV, joint_qkv
from .layers import RMSNorm


def joint_attention(
    q: Tensor, k: Tensor, v: Tensor, visual: int, text_lengths: Sequence[int], attend: Attend = sdpa
) -> tuple[Tensor, Tensor]:
    """Every token attends to all visual tokens and to the first `text_lengths[b]` text tokens of its sample.

    q, k, v (B, N + L, h, d): `visual` tokens of the one stream, then those of the text, padding last. Returns
    (B, N, h, d) and (B, L, h, d); padding text positions are zero. Samples with equally many text tokens are computed
    together, others one by one. That is exact and needs no mask, so the fastest attention kernels can run.
    """
    length, used = q.shape[1] - visual, text_lengths[0]
    if all(other == used for other in text_lengths):
        out = attend(*(t[:, : visual + used] for t in (q, k, v)))
        out_x, out_y = out[:, :visual], out[:, visual:]
        return out_x, out_y if used == length else F.pad(out_y, (0, 0, 0, 0, 0, length - used))
    out_x, out_y = torch.empty_like(q[:, :visual]), torch.zeros_like(q[:, visual:])
    for b, used in enumerate(text_lengths):
        out = attend(*(t[b : b + 1, : visual + used] for t in (q, k, v)))
        out_x[b], out_y[b, :used] = out[0, :visual], out[0, visual:]
    return out_x, out_y


@dataclass(frozen=True)
class JointAttention:
    """Where the tokens of both streams meet. A parallel run replaces it; see runner.py.

    Attributes:
        attend: computes attention among tokens that are all on this device; see backends.py.
    """

    attend: Attend = sdpa

    def __call__(self, x: PackedQKV, y: PackedQKV, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Visual and text stream -> (B, N, h, d) and (B, L, h, d), as `joint_attention`.

        The second may be None in a block that does not read it.
        """
        return joint_attention(*joint_qkv(x, y), x.qkv.shape[1], text_lengths, self.attend)


class AsymmetricAttention(nn.Module):
    """Multi-head attention in which text and visual tokens, of different width, meet in `joint`."""

    def __init__(self, config: DiTConfig, update_y: bool, operations: Any, **factory: Any):
        super().__init__()
        dx, dy, d = config.hidden_x, config.hidden_y, config.head_dim
        self.heads = config.num_heads
        self.joint: JointAttention = JointAttention()
        self.qkv_x = operations.Linear(dx, 3 * dx, bias=False, **factory)
        self.qkv_y = operations.Linear(dy, 3 * dx, bias=False, **factory)
        self.q_norm_x = RMSNorm(d, **factory)
        self.k_norm_x = RMSNorm(d, **factory)
        self.q_norm_y = RMSNorm(d, **factory)
        self.k_norm_y = RMSNorm(d, **factory)
        self.proj_x = operations.Linear(dx, dx, **factory)
        self.proj_y = operations.Linear(dx, dy, **factory) if update_y else None

    def forward(
        self, x: Tensor, y: Tensor, rotary: Tensor, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, D_x), y (B, L, D_y) -> the same shapes; no text output in the last block."""
        visual = self._packed(self.qkv_x(x), self.q_norm_x, self.k_norm_x, rotary)
        text = self._packed(self.qkv_y(y), self.q_norm_y, self.k_norm_y)
        # Not in compiled code: how tokens meet depends on the prompts' lengths, and may be among ranks.
        if torch.compiler.is_compiling():
            from ..kernels.graph_break import uncompiled

            out_x, out_y = uncompiled(_in_order, self.joint, visual, text, text_lengths)
        else:
            out_x, out_y = self.joint(visual, text, text_lengths)
        out_x = self.proj_x(out_x.flatten(2))
        return out_x, None if self.proj_y is None or out_y is None else self.proj_y(out_y.flatten(2))

    def _packed(self, qkv: Tensor, q: RMSNorm, k: RMSNorm, rotary: Tensor | None = None) -> PackedQKV:
        # Hosts keep some weights elsewhere.
        q_weight, k_weight = (norm.weight.to(qkv.device) for norm in (q, k))
        return PackedQKV(qkv.unflatten(-1, (3, self.heads, -1)), q_weight, k_weight, rotary)


def _in_order(
    joint: JointAttention, x: PackedQKV, y: PackedQKV, text_lengths: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """The outputs of `joint`, contiguous: compiled code is made for one order of memory, also for parts of tensors."""
    out_x, out_y = joint(x, y, text_lengths)
    return _ordered(out_x), None if out_y is None else _ordered(out_y)


def _ordered(t: Tensor) -> Tensor:
    # A batch of one counts as contiguous with any stride between samples.
    return t[0].contiguous().unsqueeze(0) if len(t) == 1 else t.contiguous()


def use_attention(blocks: Iterable[nn.Module], attend: Attend) -> None:
    """Have all blocks of a model compute attention by `attend`."""
    for attention in attentions(blocks):
        attention.joint = replace(attention.joint, attend=attend)


def attentions(blocks: Iterable[nn.Module]) -> Iterator[AsymmetricAttention]:
    """The attention of each block."""
    return (module for block in blocks for module in block.children() if isinstance(module, AsymmetricAttention))
