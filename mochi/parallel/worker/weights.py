"""The weights of an AsymmDiT that one rank has, and the patches (LoRA) that a person puts on them.

Every rank reads what it needs itself, tensor by tensor, from the memory-mapped file. Load and patch under
`torch.inference_mode()`, like everything else in a rank: FSDP cannot change over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ...checkpoint.check import check_numbers
from ...checkpoint.lazy import LazyTensor
from ...checkpoint.load import blueprint, find_scales, pack, values_for
from ...dit import AsymmDiT
from ...errors import MochiError
from ...lora.patch import LoraPatch, WeightPatch, apply_patches
from ...quant import QUANT_DTYPE, use_float8_products

if TYPE_CHECKING:
    from ..spmd.fsdp import ShardedLayout

SHARDINGS = ("replicated", "sharded", "offloaded")


class RankWeights:
    """A model with the weights of one rank.

    Args:
        path: a file with an AsymmDiT; CheckpointError is raised on any other.
        dtype: what weights are rounded to, see `load_dit`. Positions stay in float32.
        compute_dtype: what those that are not packed are then kept in, and all is computed in; None: the same. (A CPU
            that is slow in bfloat16 computes bfloat16 weights in float32.)
        sharding: "replicated", every rank has all of it; "sharded", a block's weights are gathered from all
            ranks just before they are needed (FSDP2); "offloaded", the same from host memory. A single rank has all.
        on_tensor: is told (tensors read, tensors in all) as loading goes on. What it raises ends the loading.
        fast: whether float8 weights are multiplied in float8, see `use_float8_products`.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: torch.dtype | None,
        compute_dtype: torch.dtype | None,
        device: torch.device | str,
        sharding: str,
        on_tensor: Callable[[int, int], None] | None = None,
        fast: bool = False,
    ):
        if sharding not in SHARDINGS:
            raise MochiError(f"weights are {sharding!r}, but must be one of {', '.join(SHARDINGS)}")
        self.tensors_read = 0
        self._device = torch.device(device)
        self._patched: set[str] = set()

        self._plan = lambda: blueprint(path, "dit", AsymmDiT, dtype, compute=compute_dtype)
        plan, entries = self._plan()
        self._rounded = {name: p.dtype for name, p in plan.named_parameters()}
        self.compute_dtype = compute_dtype or plan.x_embedder.proj.weight.dtype
        self.model = AsymmDiT(plan.config, dtype=self.compute_dtype, device="meta").requires_grad_(False).eval()
        pack(self.model, entries, dtype)
        find_scales(self.model, entries)
        if fast:
            use_float8_products(self.model)
        check_numbers(Path(path), entries)
        self._layout = self._lay_out(sharding)
        for name, entry in entries.items():
            self._assign(name, self._read(entry, name))
            if on_tensor is not None:
                on_tensor(self.tensors_read, len(entries))

    @property
    def bytes(self) -> int:
        """Size of this rank's weights, on whatever device they are."""
        return sum(self._layout.own(p).nbytes for p in self.model.parameters())

    def patch(self, patches: Mapping[str, Sequence[WeightPatch]]) -> None:
        """Let the weights be the file's with these patches, by parameter; earlier patches are gone.

        Only the parameters that are patched, or were, are read again; not packed ones, which are patched as they are
        unpacked. Raises MochiError on patches that do not fit.
        """
        if unknown := patches.keys() - self._rounded.keys():
            raise MochiError(f"patches for {sorted(unknown)[0]}, which the model does not have")
        names = sorted(self._patched | patches.keys())
        if not names:
            return
        _, entries = self._plan()
        self._patched |= patches.keys()  # should a patch fail, the next call mends what is half done
        for name in names:
            if self._rounded[name] == QUANT_DTYPE:
                self._patch_packed(name, patches.get(name), entries[name].shape)
                continue
            weight = self._read(entries[name], name)
            if name in patches:
                rows = self._layout.rows(self.model.get_parameter(name))
                weight = apply_patches(name, weight.to(self._device), patches[name], entries[name].shape, rows)
            self._assign(name, weight)
        self._patched = set(patches)

    def _patch_packed(self, name: str, patches: Sequence[WeightPatch] | None, shape: Sequence[int]) -> None:
        layer = self.model.get_submodule(name.removesuffix(".weight"))
        if patches is None:
            layer.patch = None
            return
        empty, nowhere = torch.empty(*shape, device="meta"), [patch.to("meta") for patch in patches]
        apply_patches(name, empty, nowhere, shape)  # do they fit?
        # Factors are needed again and again; a whole weight would take on the device what quantising saves there.
        factors = all(isinstance(patch, LoraPatch) for patch in patches)
        here = [patch.to(self._device) for patch in patches] if factors else patches
        layer.patch = lambda weight: apply_patches(name, weight, here, shape)

    def _lay_out(self, sharding: str) -> WholeLayout | ShardedLayout:
        if sharding == "replicated" or dist.get_world_size() == 1:  # one rank has nobody to share with
            return WholeLayout(self._device)
        from ..spmd.fsdp import ShardedLayout

        return ShardedLayout(self.model, self._device, offload=sharding == "offloaded")

    def _read(self, entry: LazyTensor, name: str) -> Tensor:
        """This rank's rows as the file has them, rounded."""
        self.tensors_read += 1
        return values_for(self._rounded[name], entry, self._layout.rows(self.model.get_parameter(name)))

    def _assign(self, name: str, weight: Tensor) -> None:
        """Replace this rank's rows of a parameter. The old ones are free at once: patching needs no room for two."""
        old = self.model.get_parameter(name)
        weight = self._layout.place(old, weight.to(old.dtype))
        module, _, leaf = name.rpartition(".")
        # By way of the state dict, where FSDP notices.
        self.model.get_submodule(module).load_state_dict({leaf: weight}, strict=False, assign=True)


class WholeLayout:
    """Every rank has all of every parameter. See ShardedLayout, which has the same methods."""

    def __init__(self, device: torch.device):
        self._device = device

    def rows(self, p: Tensor) -> slice:
        return slice(0, p.shape[0])

    def place(self, p: Tensor, rows: Tensor) -> Tensor:
        return rows.to(self._device)

    def own(self, p: Tensor) -> Tensor:
        return p
