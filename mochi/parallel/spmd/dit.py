"""An AsymmDiT spread over the ranks: the model for a single device, with another runner and another attention."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...dit import AsymmDiT, TextContext
from ...dit.attention import JointAttention, attentions
from ...dit.cache import CachePlan, Key, Passes
from ...dit.runner import BlockCall, call_block
from ...errors import MochiError
from ..split import Split
from .collectives import Traffic
from .mesh import Meshes
from .skip import without
from .step_cache import SharedStepCache
from .ulysses import TokenShards, UlyssesAttention


class Pass(NamedTuple):
    """One forward pass.

    Attributes:
        z: latents (B, 12, T, H, W).
        sigma: noise levels (B,), or (B, T), each frame its own.
        text: the prompts.
        keys: of the samples, for the step cache.
        level: the noise level of the step, for the step cache.
        skip: numbers of blocks to leave out.
    """

    z: Tensor
    sigma: Tensor
    text: TextContext
    keys: Sequence[Key] = ()
    level: float = 1.0
    skip: Sequence[int] = ()


class ParallelDiT:
    """Forward passes of a model that every rank has, whole or as its FSDP shard.

    All ranks make the same calls with the same arguments, and get the same results. Visual tokens are sharded after
    the patch embedding and gathered after the final layer.

    Args:
        call: how each block is called.
    """

    def __init__(self, model: AsymmDiT, meshes: Meshes, call: BlockCall = call_block):
        self.model = model
        self.traffic = Traffic()
        self._meshes, self._call = meshes, call
        self._split: Split | None = None
        self._rotary: tuple[torch.Size, Tensor] | None = None
        self._plan: CachePlan | None = None
        self._caches: dict[Split, SharedStepCache] = {}

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

        Each guidance group of the split makes one pass at a time. A group that is left without one repeats the last
        pass, since FSDP gathers weights from all ranks of a machine for each forward pass.
        Raises MochiError unless all passes have latents of one shape, and the split is one of all ranks.
        """
        if len({p.z.shape for p in passes}) > 1:
            raise MochiError("the passes of a step have latents of different shapes")
        self._use(split)
        if self._plan is not None:
            self._begin_cached_step(self._plan, split, passes)
        results: list[Tensor] = []
        for first in range(0, len(passes), split.cfg_degree):
            together = passes[first : first + split.cfg_degree]
            result = self._forward(together[min(self._guidance.rank, len(together) - 1)], split)
            # A pass that all groups made is the same in all of them, but not where each had its own cache.
            differ = len(together) > 1 or self._plan is not None
            results += self._exchange(result, split)[: len(together)] if differ else [result]
        return [result.float() for result in results]

    def _exchange(self, result: Tensor, split: Split) -> Tensor:
        """The results of all groups of guidance, (groups, *shape).

        All ranks of a group have its result. Where guidance joins machines, by a network, each sends its share of it,
        and the ranks of a machine put the shares together: so every byte crosses once. On one machine that would only
        take longer.
        """
        machines = self._meshes.machines
        if len(set(machines)) == 1 or split.crosses(machines):
            return self._guidance.all_gather(result).wait()
        flat, mates = result.flatten(), self._shards.peers
        shares = mates.shares(len(flat))
        theirs = self._guidance.all_gather(flat.split(shares)[mates.rank]).wait()
        return mates.gather_rows(theirs.T, shares).T.contiguous().unflatten(1, result.shape)

    def use_cache(self, plan: CachePlan | None) -> None:
        """Have the next passes, those of a run, go through a step cache, or through none."""
        if plan != self._plan:
            self._plan, self._caches = plan, {}

    def forget_run(self) -> Passes:
        """Free what was kept for the steps of a run. Returns which of its passes were computed, if it had a cache."""
        passes = {key: run for cache in self._caches.values() for key, run in cache.passes.items()}
        self._rotary, self._plan, self._caches = None, None, {}
        return passes

    def _forward(self, one: Pass, split: Split) -> Tensor:
        z, runner = self._as_computed(one.z), self._shards
        runner.call = self._call
        if one.skip:
            runner.call = without(runner.call, [self.model.blocks[i] for i in one.skip])
        rotary = self._rotary_of(z.shape[2:])
        if self._plan is not None:
            runner = self._caches[split].around(one.keys, one.level, runner)
        return self.model(z, one.sigma.to(z.device), one.text, rotary, runner)

    def _begin_cached_step(self, plan: CachePlan, split: Split, passes: Sequence[Pass]) -> None:
        """Make the cache of this split, if there is none: each split has its own, since its ranks have other tokens.

        What the other caches have of these samples is out of date now. All ranks forget it, whichever passes they make.
        """
        keys = {key for one in passes for key in one.keys}
        for other, cache in self._caches.items():
            if other != split:
                cache.forget(keys)
        if split not in self._caches:
            self._caches[split] = SharedStepCache(plan, self._shards.peers, self._guidance)

    def _as_computed(self, t: Tensor) -> Tensor:
        return t.to(self.model.x_embedder.proj.weight)

    def _rotary_of(self, size: torch.Size) -> Tensor:
        """This rank's part of the rotary table for latents of size (T, H, W), remembered until another size comes."""
        if self._rotary is None or self._rotary[0] != size:
            frames, height, width = size
            # Copied: a part that is a view would keep the whole table in memory.
            self._rotary = (size, self._shards.own(self.model.rotary(frames, height, width), dim=0).clone())
        return self._rotary[1]

    def _use(self, split: Split) -> None:
        """Share tokens by this split, and put its attention into every block."""
        if split == self._split:
            return
        self._guidance = self._meshes.peers(split, "cfg_degree", self.traffic)
        self._shards = TokenShards(self._meshes.peers(split, "ulysses_degree", self.traffic), self._call)
        self._split, self._rotary = split, None
        for attention in attentions(self.model.blocks):
            attend, text_is_read = attention.joint.attend, attention.proj_y is not None
            if split.ulysses_degree == 1:
                attention.joint = JointAttention(attend)
            else:
                attention.joint = UlyssesAttention(attend, shards=self._shards, text_is_read=text_is_read)
