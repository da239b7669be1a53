"""Ulysses: a forward pass over several ranks, by tokens outside attention and by heads inside.

p ranks, this one has n of the N visual tokens; B batch, L text tokens, which are on every rank, h heads, d head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...dit import BlockRunner
from ...dit.attention import JointAttention, joint_attention
from ...dit.heads import PackedQKV
from ...dit.runner import BlockCall, call_block
from .collectives import Peers, Pending


class TokenShards(BlockRunner):
    """The visual tokens of a forward pass, spread over the ranks: how many each has, and ways to spread them anew.

    Tokens come first on the wire, so that what arrives is in order for any batch, and uneven shards need no padding.
    """

    def __init__(self, peers: Peers, call: BlockCall = call_block):
        super().__init__(call)
        self.peers = peers
        self.shares = peers.shares(0)

    def enter(self, tokens: Tensor) -> Tensor:
        """All visual tokens (B, N, D), as every rank has them -> those of this rank, (B, n, D)."""
        self.shares = self.peers.shares(tokens.shape[1])
        return self.own(tokens, dim=1)

    def first_token(self, tokens: int) -> int:
        return sum(self.peers.shares(tokens)[: self.peers.rank])

    def leave(self, tokens: Tensor) -> Tensor:
        """The tokens of this rank (B, n, D) -> all of them on every rank, (B, N, D)."""
        return self.peers.gather_rows(tokens.transpose(0, 1), self.shares).transpose(0, 1)

    def own(self, t: Tensor, dim: int) -> Tensor:
        """This rank's part of a tensor that has the N tokens, or the h heads, along `dim`."""
        return t.tensor_split(self.peers.size, dim)[self.peers.rank]

    def outgoing(self, qkv: Tensor) -> Tensor:
        """Room for queries, keys or values of qkv (B, n, 3, h, d), in the order of the wire: (B, n, p, h/p, d)."""
        (batch, n, _, heads, width), p = qkv.shape, self.peers.size
        return qkv.new_empty(p, n, batch, heads // p, width).transpose(0, 2)

    def to_heads(self, t: Tensor, into: Tensor) -> Pending[Tensor]:
        """`outgoing`, all heads of this rank's tokens -> its heads of all tokens, into (N, B, h/p, d)."""
        p, n = self.peers.size, t.shape[1]
        return self.peers.all_to_all(t.transpose(0, 2).flatten(0, 1), give=[n] * p, take=self.shares, into=into)

    def to_tokens(self, t: Tensor) -> Pending[Tensor]:
        """This rank's heads of all tokens (B, N, h/p, d) -> all heads of its tokens (B, n, h, d)."""
        p, n = self.peers.size, self.shares[self.peers.rank]
        arriving = self.peers.all_to_all(t.transpose(0, 1).contiguous(), give=self.shares, take=[n] * p)
        return arriving.then(lambda t: t.unflatten(0, (p, n)).permute(2, 1, 0, 3, 4).flatten(2, 3))

    def gather_heads(self, t: Tensor) -> Pending[Tensor]:
        """This rank's heads of the text (B, L, h/p, d) -> all heads (B, L, h, d)."""
        return self.peers.all_gather(t).then(lambda t: t.permute(1, 2, 0, 3, 4).flatten(2, 3))


@dataclass(frozen=True, kw_only=True)
class UlyssesAttention(JointAttention):
    """Joint attention among all tokens, each rank with its share of the heads.

    Attributes:
        text_is_read: whether the block reads the text output. Where not, it is not gathered, and is None.
    """

    shards: TokenShards
    text_is_read: bool

    def __call__(self, x: PackedQKV, y: PackedQKV, text_lengths: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        shards = self.shards
        q, k, v = self._exchange(x, y.of_heads(shards.peers.rank, shards.peers.size))
        out_x, out_y = joint_attention(q, k, v, sum(shards.shares), text_lengths, self.attend)
        visual = shards.to_tokens(out_x)
        text = shards.gather_heads(out_y) if self.text_is_read else None
        return visual.wait(), text.wait() if text is not None else None

    def _exchange(self, x: PackedQKV, y: PackedQKV) -> tuple[Tensor, ...]:
        """All heads of this rank's visual tokens, and its heads of the text -> its heads of all tokens.

        Returns q, k and v, each (B, N + L, h/p, d).
        """
        shards, (batch, text, _, heads, width) = self.shards, y.qkv.shape
        visual = sum(shards.shares)

        def joint() -> Tensor:
            """Memory with the tokens first: what arrives from all ranks fills its front, the text comes last."""
            return x.qkv.new_empty(visual + text, batch, heads, width)

        def of_text(t: Tensor) -> Tensor:
            return t[visual:].transpose(0, 1).unsqueeze(2)

        v, wire = joint(), shards.outgoing(x.qkv)
        wire.copy_(x.qkv.select(2, 2).unflatten(2, wire.shape[2:4]))
        arriving = [shards.to_heads(wire, v[:visual])]
        # While the values are on their way:
        wires = [shards.outgoing(x.qkv) for _ in "qk"]
        x.write_qk(*wires)
        q, k = joint(), joint()
        arriving += [shards.to_heads(wire, t[:visual]) for wire, t in zip(wires, (q, k), strict=True)]
        y.write_qk(of_text(q), of_text(k))
        of_text(v).copy_(y.qkv.select(2, 2).unsqueeze(2))
        for t in arriving:
            t.wait()
        return tuple(t.transpose(0, 1) for t in (q, k, v))
