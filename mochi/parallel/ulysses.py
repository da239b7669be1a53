"""Ulysses: a forward pass over several ranks, by tokens outside attention and by heads inside.

p ranks, this one has n of the N visual tokens; B batch, L text tokens, which are on every rank, h heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..dit.attention import QKV, JointAttention, joint_attention
from .collectives import Arriving, Peers


class TokenShards:
    """The visual tokens of a forward pass, spread over the ranks: how many each has, and ways to spread them anew.

    Tokens come first on the wire, so that what arrives is in order for any batch, and uneven shards need no padding.
    """

    def __init__(self, peers: Peers):
        self.peers = peers
        self.shares = peers.shares(0)

    def enter(self, x: Tensor) -> Tensor:
        """All visual tokens (B, N, D), as every rank has them -> those of this rank, (B, n, D)."""
        self.shares = self.peers.shares(x.shape[1])
        return self.own(x, dim=1)

    def leave(self, x: Tensor) -> Tensor:
        """The tokens of this rank (B, n, D) -> all of them on every rank, (B, N, D)."""
        return self.peers.gather_rows(x.transpose(0, 1), self.shares).transpose(0, 1)

    def own(self, t: Tensor, dim: int) -> Tensor:
        """Of anything that has the N tokens, or the h heads, along `dim`: this rank's."""
        return t.tensor_split(self.peers.size, dim)[self.peers.rank]

    def to_heads(self, t: Tensor) -> Arriving:
        """All heads of this rank's tokens (B, n, h, d) -> its heads of all tokens (B, N, h/p, d)."""
        p = self.peers.size
        wire = t.unflatten(2, (p, t.shape[2] // p)).permute(2, 1, 0, 3, 4).contiguous().flatten(0, 1)
        arriving = self.peers.all_to_all(wire, give=[t.shape[1]] * p, take=self.shares)
        return lambda: arriving().transpose(0, 1)

    def to_tokens(self, t: Tensor) -> Arriving:
        """This rank's heads of all tokens (B, N, h/p, d) -> all heads of its tokens (B, n, h, d)."""
        p, n = self.peers.size, self.shares[self.peers.rank]
        arriving = self.peers.all_to_all(t.transpose(0, 1).contiguous(), give=self.shares, take=[n] * p)
        return lambda: arriving().unflatten(0, (p, n)).permute(2, 1, 0, 3, 4).flatten(2, 3)

    def gather_heads(self, t: Tensor) -> Arriving:
        """This rank's heads of the text (B, L, h/p, d) -> all heads (B, L, h, d)."""
        arriving = self.peers.all_gather(t)
        return lambda: arriving().permute(1, 2, 0, 3, 4).flatten(2, 3)


@dataclass(frozen=True, kw_only=True)
class UlyssesAttention(JointAttention):
    """Joint attention among all tokens, each rank with its share of the heads.

    text_is_read: whether the block reads the text output; where not, none is gathered, and it is None.
    """

    shards: TokenShards
    text_is_read: bool

    def send(self, t: Tensor) -> Arriving:
        return self.shards.to_heads(t)

    def __call__(self, x: QKV, y: QKV, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        x = QKV(*(arrive() for arrive in x))
        y = QKV(*(self.shards.own(t, dim=2) for t in y))
        out_x, out_y = joint_attention(x, y, text_lengths, self.attend)
        visual = self.shards.to_tokens(out_x)
        text = self.shards.gather_heads(out_y) if self.text_is_read else None
        return visual(), text() if text is not None else None
