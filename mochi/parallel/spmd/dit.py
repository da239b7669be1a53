"""An AsymmDiT spread over the ranks. The model is the one for a single device; what differs is put in from outside."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...dit import AsymmDiT, RotaryTable, TextContext
from ...dit.cache import CachePlan, Key, Passes
from ...errors import MochiError
from ..split import Split
from .collectives import Peers, Traffic
from .mesh import Meshes
from .step_cache import SharedStepCache
from .ulysses import TokenShards, UlyssesAttention


class Pass(NamedTuple):
    """One forward pass: latents z (B, 12, T, H, W) at noise level sigma (B,), and the prompts. keys: of its samples,
    for the cache, if there is one; then all are at one level."""

    z: Tensor
    sigma: Tensor
    text: TextContext
    keys: Sequence[Key] = ()


class ParallelDiT:
    """Forward passes of a model that every rank has, whole or as its FSDP shard.

    All ranks make the same calls with the same arguments, and get the same results. Visual tokens are sharded behind
    the patch embedding and gathered behind the final layer, where the model does not notice.
    """

    def __init__(self, model: AsymmDiT, meshes: Meshes, ulysses: type[UlyssesAttention] = UlyssesAttention):
        self.model = model
        self.traffic = Traffic()
        self._meshes, self._ulysses, self._alone = meshes, ulysses, model.blocks[0].attn.joint
        self._split: Split | None = None
        self._rotary: tuple[torch.Size, RotaryTable] | None = None
        self._plan: CachePlan | None = None
        self._caches: dict[Split, SharedStepCache] = {}
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
        if self._plan is not None:
            self._cache_for(passes)
        results: list[Tensor] = []
        for first in range(0, len(passes), split.cfg_degree):
            together = passes[first : first + split.cfg_degree]
            result = self._forward(together[min(self._guidance.rank, len(together) - 1)])
            # A pass that all groups made is the same in all of them, but not where each had its own cache.
            differ = len(together) > 1 or self._plan is not None
            results += self._guidance.all_gather(result)()[: len(together)] if differ else [result]
        return [result.float() for result in results]

    def use_cache(self, plan: CachePlan | None) -> None:
        """Have the next passes, those of a run, go through a cache, or through none."""
        if plan != self._plan:
            self._plan, self._caches = plan, {}

    def forget_run(self) -> Passes:
        """Free what was kept for the steps of a run. Returns which of its passes were computed, if it had a cache."""
        passes = {key: run for cache in self._caches.values() for key, run in cache.passes.items()}
        self._rotary, self._plan, self._caches = None, None, {}
        return passes

    def _forward(self, one: Pass) -> Tensor:
        z = self._as_computed(one.z)
        with self._cached(one):
            return self.model(z, one.sigma.to(z.device), one.text, self._rotary_of(z.shape[2:]))

    def _cached(self, one: Pass) -> AbstractContextManager[None]:
        if self._plan is None:
            return nullcontext()
        return self._caches[self._split].around(self.model, one.keys, one.sigma[0].item())

    def _cache_for(self, passes: Sequence[Pass]) -> None:
        """Each split has a cache of its own, with other tokens. What others have of these samples is out of date now,
        and all ranks must forget it, whichever of the passes they make."""
        keys = {key for one in passes for key in one.keys}
        for split, cache in self._caches.items():
            if split != self._split:
                cache.forget(keys)
        if self._split not in self._caches:
            self._caches[self._split] = SharedStepCache(self._plan, self._shards.peers, self._guidance)

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
        self._guidance = Peers(mesh.get_group("cfg_degree"), self.traffic)
        self._shards = TokenShards(Peers(mesh.get_group("ulysses_degree"), self.traffic))
        self._split, self._rotary = split, None
        for block in self.model.blocks:
            attend, text_is_read = block.attn.joint.attend, block.attn.proj_y is not None
            ulysses = self._ulysses(attend, shards=self._shards, text_is_read=text_is_read)
            block.attn.joint = ulysses if split.ulysses_degree > 1 else replace(self._alone, attend=attend)
