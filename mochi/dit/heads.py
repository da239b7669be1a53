"""Queries, keys and values on their way from the Linear layers of both streams to where attention reads them.

B batch, N visual tokens, L text tokens, n those of one stream, h heads, d head width; p ranks that share the heads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import formula
from .gradients import OfJointHeads
from .rotary import rotate


class PackedQKV(NamedTuple):
    """Queries, keys and values of a stream, as it brings them to attention.

    Attributes:
        qkv: queries, keys and values as they leave the Linear layer, (B, n, 3, h, d).
        q_weight, k_weight: of the RMS norms of queries and keys, (d,), in any dtype.
        turns: the rotary table (n, h, d/2, 2), float32. None: the tokens have no positions.
    """

    qkv: Tensor
    q_weight: Tensor
    k_weight: Tensor
    turns: Tensor | None
    eps: float = 1e-5

    def of_heads(self, part: int, parts: int) -> PackedQKV:
        """The part of the heads that a rank has, a view."""
        return self._replace(qkv=self.qkv.tensor_split(parts, dim=3)[part])

    def write_qk(self, q: Tensor, k: Tensor) -> None:
        """Write queries and keys, normed and turned, into q and k (B, n, p, h/p, d), which have the same strides."""
        write_heads(self.qkv, q, k, self.q_weight, self.k_weight, self.turns, self.eps)


def joint_qkv(x: PackedQKV, y: PackedQKV) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of the visual and the text stream, each (B, N + L, h, d), visual tokens first."""
    weights = x.q_weight, x.k_weight, y.q_weight, y.k_weight
    return joint_heads(x.qkv, y.qkv, *weights, x.turns, x.eps)


@formula("heads:joint_heads", gradient=OfJointHeads)
def joint_heads(
    x: Tensor,
    y: Tensor,
    q_weight_x: Tensor,
    k_weight_x: Tensor,
    q_weight_y: Tensor,
    k_weight_y: Tensor,
    turns: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `joint_qkv`, of x (B, N, 3, h, d) and y (B, L, 3, h, d)."""

    def both(visual: Tensor, text: Tensor, weight_x: Tensor, weight_y: Tensor) -> Tensor:
        visual = _ready(visual, weight_x, turns, eps).to(x.dtype)
        return torch.cat((visual, _ready(text, weight_y, None, eps).to(y.dtype)), dim=1)

    q, k, v = zip(x.unbind(2), y.unbind(2), strict=True)
    # Values last: the temporaries of the norms are freed by then.
    return both(*q, q_weight_x, q_weight_y), both(*k, k_weight_x, k_weight_y), torch.cat(v, dim=1)


@formula("heads:write_heads", mutates=("q", "k"))
def write_heads(
    packed: Tensor, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, turns: Tensor | None, eps: float
) -> None:
    """As `PackedQKV.write_qk`, of packed (B, n, 3, h, d)."""
    for t, weight, out in zip(packed.unbind(2), (q_weight, k_weight), (q, k)):
        out.copy_(_ready(t, weight, turns, eps).unflatten(2, out.shape[2:4]))


def _ready(t: Tensor, weight: Tensor, turns: Tensor | None, eps: float) -> Tensor:
    """Queries or keys (B, n, h, d), normed and turned, in float32."""
    normed = F.rms_norm(t.float(), weight.shape, weight.float(), eps)
    return normed if turns is None else rotate(normed, turns)
