"""An AsymmDiT spread over the ranks. The model is the one for a single device; what differs is put in from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..dit import AsymmDiT, RotaryTable, TextContext
from ..dit.attention import JointAttention
from ..errors import MochiError
from .collectives import Peers, Traffic
from .mesh import Meshes
from .split import Split
from .ulysses import TokenShards, UlyssesAttention


class Pass(NamedTuple):
    """One forward pass: latents z (B, 12, T, H, W) at noise level sigma (B,), and the prompts."""

    z: Tensor
    sigma: Tensor
    text: TextContext


class ParallelDiT:
    """Forward passes of a model that every rank has, whole or as its FSDP shard.

    All ranks make the same calls with the same arguments, and get the same results. Visual tokens are sharded behind
    the patch embedding and gathered behind the final layer, where the model does not notice.
    """

    def __init__(self, model: AsymmDiT, meshes: Meshes):
        self.model = model
        self.traffic = Traffic()
        self._meshes = meshes
        self._split: Split | None = None
        self._rotary: tuple[torch.Size, RotaryTable] | None = None
        model.x_embedder.register_forward_hook(lambda module, args, tokens: self._shards.enter(tokens))
        model.final_layer.register_forward_hook(lambda module, args, tokens: self._shards.leave(tokens))

    @property
    def bytes_sent(self) -> int:
        """Bytes of activations that this rank has sent so far. FSDP's weights are not among them."""
        return self.traffic.sent

    def encode_text(self, features: Tensor, mask: Tensor) -> TextContext:
        """T5 features (B, L, text width) and mask (B, L), from any device -> TextContext; every rank makes its own."""
        features = self._as_computed(features)
        return self.model.encode_text(features, mask.to(features.device))

    def predict(self, passes: Sequence[Pass], split: Split) -> list[Tensor]:
        """`z_0 - eps` of each pass, (B, 12, T, H, W) in float32.

        As many passes go at a time as the split has guidance groups, each in a group of its own; a group that is left
        without one makes the last pass once more, since FSDP gathers weights from all ranks for each forward pass.
        Raises MochiError unless all passes have latents of one shape, and the split is one of all ranks.
        """
        if len({p.z.shape for p in passes}) > 1:
            raise MochiError("the passes of a step have latents of different shapes")
        self._use(split)
        results: list[Tensor] = []
        for first in range(0, len(passes), split.guidance):
            together = passes[first : first + split.guidance]
            result = self._forward(together[min(self._guidance.rank, len(together) - 1)])
            results += self._guidance.all_gather(result)()[: len(together)] if len(together) > 1 else [result]
        return [result.float() for result in results]

    def forget_run(self) -> None:
        """Free what was kept for the steps of a run."""
        self._rotary = None

    def _forward(self, one: Pass) -> Tensor:
        z = self._as_computed(one.z)
        return self.model(z, one.sigma.to(z.device), one.text, self._rotary_of(z.shape[2:]))

    def _as_computed(self, t: Tensor) -> Tensor:
        return t.to(self.model.x_embedder.proj.weight)

    def _rotary_of(self, size: torch.Size) -> RotaryTable:
        """This rank's part of the rotary table for latents of size (T, H, W), remembered until another size comes."""
        if self._rotary is None or self._rotary[0] != size:
            table = self.model.rotary(*size)
            # Copied: a part that is a view would keep the whole table in memory.
            self._rotary = (size, RotaryTable(*(self._shards.own(t, dim=0).clone() for t in table)))
        return self._rotary[1]

    def _use(self, split: Split) -> None:
        """Put the attention of a split into every block."""
        if split == self._split:
            return
        mesh = self._meshes[split]
        self._guidance = Peers(mesh.get_group("guidance"), self.traffic)
        self._shards = TokenShards(Peers(mesh.get_group("ulysses"), self.traffic))
        self._split, self._rotary = split, None
        for block in self.model.blocks:
            ulysses = UlyssesAttention(shards=self._shards, text_is_read=block.attn.proj_y is not None)
            block.attn.joint = ulysses if split.ulysses > 1 else JointAttention()
