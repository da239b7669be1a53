"""Joint attention of the visual and the text stream.

B batch, N visual tokens, L text tokens, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from .backends import Attend, sdpa
from .layers import RMSNorm
from .rotary import RotaryTable, rotate


class QKV(NamedTuple):
    """Queries, keys and values of one stream, each (B, tokens, h, d)."""

    q: Tensor
    k: Tensor
    v: Tensor


def joint_attention(x: QKV, y: QKV, text_lengths: Sequence[int], attend: Attend = sdpa) -> tuple[Tensor, Tensor]:
    """Every token attends to all visual tokens and to the first `text_lengths[b]` text tokens of its sample.

    Returns (B, N, h, d) and (B, L, h, d); padding text positions are zero. Samples with equally many
    text tokens go together; others one by one, which is exact and needs no mask, so that the fastest
    attention kernels apply.
    """
    n, length = x.q.shape[1], y.q.shape[1]
    if all(used == length for used in text_lengths):
        out = attend(*(torch.cat(pair, dim=1) for pair in zip(x, y, strict=True)))
        return out[:, :n], out[:, n:]
    out_x, out_y = torch.empty_like(x.q), torch.zeros_like(y.q)
    for b, used in enumerate(text_lengths):
        joint = (torch.cat((tx[b : b + 1], ty[b : b + 1, :used]), dim=1) for tx, ty in zip(x, y, strict=True))
        out = attend(*joint)
        out_x[b], out_y[b, :used] = out[0, :n], out[0, n:]
    return out_x, out_y


@dataclass(frozen=True)
class JointAttention:
    """Where tokens see each other: the one thing in the model that a parallel run puts its own in place of.

    attend: computes attention among tokens that are all here; see backends.py.
    """

    attend: Attend = sdpa

    def send(self, t: Tensor) -> Tensor:
        """Takes visual q, k and v, each (B, N, h, d), as soon as it is ready; what it returns is what is called with.

        Here that is the tensor itself. A parallel run sends it to the other ranks, while the next is computed.
        """
        return t

    def __call__(self, x: QKV, y: QKV, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Visual and text q, k, v -> (B, N, h, d) and (B, L, h, d), as `joint_attention`."""
        return joint_attention(x, y, text_lengths, self.attend)


class AsymmetricAttention(nn.Module):
    """Multi-head attention in which text and visual tokens, of different width, meet in `joint`."""

    def __init__(self, config: DiTConfig, update_y: bool, operations: Any, **factory: Any):
        super().__init__()
        dx, dy, d = config.hidden_x, config.hidden_y, config.head_dim
        self.heads = config.num_heads
        self.joint = JointAttention()
        self.qkv_x = operations.Linear(dx, 3 * dx, bias=False, **factory)
        self.qkv_y = operations.Linear(dy, 3 * dx, bias=False, **factory)
        self.q_norm_x = RMSNorm(d, **factory)
        self.k_norm_x = RMSNorm(d, **factory)
        self.q_norm_y = RMSNorm(d, **factory)
        self.k_norm_y = RMSNorm(d, **factory)
        self.proj_x = operations.Linear(dx, dx, **factory)
        self.proj_y = operations.Linear(dx, dy, **factory) if update_y else None

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return packed.unflatten(-1, (3, self.heads, -1)).unbind(2)

    def forward(
        self, x: Tensor, y: Tensor, rotary: RotaryTable, text_lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, D_x), y (B, L, D_y) -> the same shapes; no text output in the last block."""
        q, k, v = self.split(self.qkv_x(x))
        v = self.joint.send(v)
        q = self.joint.send(rotate(self.q_norm_x(q), rotary).to(x.dtype))
        k = self.joint.send(rotate(self.k_norm_x(k), rotary).to(x.dtype))
        visual = QKV(q, k, v)
        q, k, v = self.split(self.qkv_y(y))
        text = QKV(self.q_norm_y(q).to(y.dtype), self.k_norm_y(k).to(y.dtype), v)
        out_x, out_y = self.joint(visual, text, text_lengths)
        out_x = self.proj_x(out_x.flatten(2))
        return out_x, None if self.proj_y is None else self.proj_y(out_y.flatten(2))


def use_attention(blocks: Iterable[nn.Module], attend: Attend) -> None:
    """Have all blocks of a model compute attention so."""
    for block in blocks:
        block.attn.joint = replace(block.attn.joint, attend=attend)
