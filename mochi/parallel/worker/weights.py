"""The weights of an AsymmDiT that one rank has, and the patches (LoRA) that a person puts on them.

Every rank reads what it needs itself, tensor by tensor, from the memory-mapped file. Load and patch under
`torch.inference_mode()`, like everything else in a rank: FSDP cannot change between modes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...checkpoint import Checkpoint, assign, fill
from ...checkpoint.checkpoint import Source
from ...checkpoint.plan import Whole
from ...errors import MochiError
from ...lora.patch import WeightPatch, apply_patches, patch_quant_linear
from ...quant import QUANT_DTYPE, use_float8_products
from ..settings import SHARDINGS

if TYPE_CHECKING:
    from ..spmd.fsdp import ShardedLayout


class RankWeights:
    """A model with the weights of one rank.

    Args:
        source: a file with an AsymmDiT; CheckpointError is raised on any other.
        dtype: what weights are rounded to, see `load_dit`. Positions stay in float32.
        compute_dtype: what weights that are not quantised are kept in, and what is computed in; None: the same. A CPU
            that is slow in bfloat16 computes bfloat16 weights in float32.
        sharding: "replicated": every rank has all weights. "sharded": the weights of a block are gathered from
            `mates` just before they are needed (FSDP2). "offloaded": the same, from host memory. A single rank has all.
        on_tensor: is told (tensors read, tensors in all) as loading goes on. What it raises ends the loading.
        fast: whether float8 weights are multiplied in float8, see `use_float8_products`.
        mates: the ranks that share weights, see `Meshes.mates`; by default all.
    """

    def __init__(
        self,
        source: Source,
        dtype: torch.dtype | None,
        compute_dtype: torch.dtype | None,
        device: torch.device | str,
        sharding: str,
        on_tensor: Callable[[int, int], None] | None = None,
        fast: bool = False,
        mates: dist.ProcessGroup | None = None,
    ):
        if sharding not in SHARDINGS:
            raise MochiError(f"weights are {sharding!r}, but must be one of {', '.join(SHARDINGS)}")
        self.tensors_read = 0
        self._device = torch.device(device)
        self._patched: set[str] = set()

        self._plan = Checkpoint.open(source).plan("dit", weight_dtype=dtype, compute_dtype=compute_dtype)
        self.model = self._plan.model
        self.compute_dtype = self.model.x_embedder.proj.weight.dtype
        self._layout = self._lay_out(sharding, mates)

        def read(done: int, total: int) -> None:
            self.tensors_read = done
            if on_tensor is not None:
                on_tensor(done, total)

        fill(self._plan, placement=self._layout, on_tensor=read)
        if fast:
            use_float8_products(self.model)

    @property
    def bytes(self) -> int:
        """Size of this rank's weights, on whatever device they are."""
        return sum(_own(p).nbytes for p in self.model.parameters())

    def patch(self, patches: Mapping[str, Sequence[WeightPatch]]) -> None:
        """Put patches on the weights of the file, by parameter, in place of earlier patches.

        Only the parameters that are patched, or were, are read again. Quantised ones are not: they are patched as they
        are dequantised. Raises MochiError on patches that do not fit.
        """
        if unknown := patches.keys() - self._plan.dtypes.keys():
            raise MochiError(f"patches for {sorted(unknown)[0]}, which the model does not have")
        names = sorted(self._patched | patches.keys())
        if not names:
            return
        self._patched |= patches.keys()  # if a patch fails, the next call mends what is half done
        for name in names:
            if self._plan.dtypes[name] == QUANT_DTYPE:
                layer = self.model.get_submodule(name.removesuffix(".weight"))
                patch_quant_linear(layer, name, patches.get(name, ()), self._device)
                continue
            assign(self.model, name, self._read_patched(name, patches.get(name, ())), self._layout)
        self._patched = set(patches)

    def _lay_out(self, sharding: str, mates: dist.ProcessGroup | None) -> Whole | ShardedLayout:
        if sharding == "replicated" or dist.get_world_size(mates) == 1:  # one rank has nobody to share with
            return Whole(self._device)
        from ..spmd.fsdp import ShardedLayout

        everyone: Any = dist.group.WORLD
        return ShardedLayout(self.model, self._device, sharding == "offloaded", mates or everyone)

    def _read_patched(self, name: str, patches: Sequence[WeightPatch]) -> Tensor:
        """This rank's rows of the file's weight, rounded and patched."""
        self.tensors_read += 1
        shape, rows = self._plan.entries[name].shape, self._layout.rows(self.model.get_parameter(name))
        if any(patch.of_all_rows for patch in patches):
            weight = self._plan.read(name, slice(0, shape[0])).to(self._device)
            return apply_patches(name, weight, patches, shape)[rows].clone()
        weight = self._plan.read(name, rows)
        return apply_patches(name, weight.to(self._device), patches, shape, rows) if patches else weight


def _own(p: Tensor) -> Tensor:
    """This rank's rows of a parameter."""
    to_local = getattr(p, "to_local", None)
    return p if to_local is None else to_local()
