"""Ulysses with gradients: the forward pass of ulysses.py out of operations that autograd follows.

All that ranks send goes through one operation, an exchange of rows, whose adjoint is the exchange back. So each rank
gets the gradient of the sum of all ranks' losses. Where p ranks compute one loss from the output that all of them have,
the gradients of a parameter that each has a copy of add up to p times its gradient: their mean is what one device gets.

Autograd goes back in the reverse order of the forward pass, so ranks meet in one order there too, also where a block is
computed again. p ranks, this one has n of the N visual tokens; B batch, L text tokens, h heads, d head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...dit.attention import attentions, joint_attention
from ...dit.heads import PackedQKV, joint_qkv
from ...dit.levels import Vectors
from .collectives import Peers
from .ulysses import TokenShards, UlyssesAttention


class Exchange(torch.autograd.Function):
    """Rows to the ranks that they are for, as `Peers.all_to_all`. Gradients go back the way that the rows came."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, peers: Peers, give: Sequence[int], take: Sequence[int]) -> Tensor:
        ctx.peers, ctx.give, ctx.take = peers, give, take
        return peers.all_to_all(rows.contiguous(), give, take).wait()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] # of any signature
        return ctx.peers.all_to_all(gradient.contiguous(), ctx.take, ctx.give).wait(), None, None, None


def gathered(rows: Tensor, peers: Peers, shares: Sequence[int]) -> Tensor:
    """Rows of all ranks, one rank after the other: (shares[rank], ...) -> (sum(shares), ...)."""
    copies = rows.expand(peers.size, *rows.shape).flatten(0, 1)
    return Exchange.apply(copies, peers, [len(rows)] * peers.size, list(shares))


class LearningShards(TokenShards):
    """TokenShards through which gradients flow. Without gradients they are TokenShards, to the bit.

    A forward pass puts the attention of these shards into the blocks that it goes through, and there it stays. A block
    that is computed again in the backward pass must be of the last forward pass.
    """

    def run(
        self, blocks: nn.ModuleList, x: Tensor, y: Tensor, c: Vectors, rotary: Tensor, text_lengths: Sequence[int]
    ) -> Tensor:
        """rotary: the table of all visual tokens, or this rank's part of it."""
        for attention in attentions(blocks):
            attention.joint = LearningUlysses(
                attention.joint.attend, shards=self, text_is_read=attention.proj_y is not None
            )
        rotary = rotary if len(rotary) == x.shape[1] else self.own(rotary, dim=0)
        return super().run(blocks, x, y, c, rotary, text_lengths)

    def leave(self, tokens: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().leave(tokens)
        return gathered(tokens.transpose(0, 1), self.peers, self.shares).transpose(0, 1)

    def learn_to_heads(self, qkv: Tensor) -> Tensor:
        """All heads of this rank's tokens (3, B, n, h, d) -> its heads of all tokens (N, 3, B, h/p, d)."""
        p, n = self.peers.size, qkv.shape[2]
        leaving = qkv.unflatten(3, (p, -1)).permute(3, 2, 0, 1, 4, 5).flatten(0, 1)
        return Exchange.apply(leaving, self.peers, [n] * p, self.shares)

    def learn_to_tokens(self, t: Tensor) -> Tensor:
        """This rank's heads of all tokens (B, N, h/p, d) -> all heads of its tokens (B, n, h, d)."""
        p, n = self.peers.size, self.shares[self.peers.rank]
        arrived = Exchange.apply(t.transpose(0, 1), self.peers, self.shares, [n] * p)
        return arrived.unflatten(0, (p, n)).permute(2, 1, 0, 3, 4).flatten(2, 3)

    def learn_all_heads(self, t: Tensor) -> Tensor:
        """This rank's heads of the text (B, L, h/p, d) -> all heads (B, L, h, d)."""
        batch, p = len(t), self.peers.size
        return gathered(t, self.peers, [batch] * p).unflatten(0, (p, batch)).permute(1, 2, 0, 3, 4).flatten(2, 3)


@dataclass(frozen=True, kw_only=True)
class LearningUlysses(UlyssesAttention):
    """UlyssesAttention through which gradients flow."""

    shards: LearningShards

    def __call__(self, x: PackedQKV, y: PackedQKV, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        if not torch.is_grad_enabled():
            return super().__call__(x, y, text_lengths)
        shards, peers = self.shards, self.shards.peers
        arrived = shards.learn_to_heads(torch.stack(_ready(x)))
        text = _ready(y.of_heads(peers.rank, peers.size))
        q, k, v = (torch.cat((t.transpose(0, 1), own), dim=1) for t, own in zip(arrived.unbind(1), text, strict=True))
        out_x, out_y = joint_attention(q, k, v, sum(shards.shares), text_lengths, self.attend)
        visual = shards.learn_to_tokens(out_x)
        return visual, shards.learn_all_heads(out_y) if self.text_is_read else None


def _ready(stream: PackedQKV) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one stream, normed and turned, each (B, n, h, d)."""
    return joint_qkv(stream, stream._replace(qkv=stream.qkv[:, :0]))
