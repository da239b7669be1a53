"""What the tests of the denoiser ask of a rank."""

import gc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mochi.lora import WeightPatch
from mochi.parallel.split import Split
from mochi.parallel.spmd.bandwidth import bandwidth_between
from mochi.parallel.spmd.dit import ParallelDiT, Pass
from mochi.parallel.spmd.mesh import Meshes
from mochi.parallel.worker.loop import Context
from mochi.parallel.worker.weights import RankWeights


class Denoiser:
    """One network at a time; the meshes stay."""

    def __init__(self, context: Context):
        self.device = context.device
        self.meshes = Meshes(context.device.type, machines=context.machines)

    def handle(self, request: tuple[str, dict[str, Any]]) -> Any:
        method, arguments = request
        return getattr(self, method)(**arguments)

    def load(
        self,
        path: Path,
        sharding: str,
        dtype: torch.dtype | None = None,
        compute_dtype: torch.dtype | None = None,
        machines: tuple[int, ...] | None = None,
    ) -> list[tuple[int, int]]:
        """machines: those that the ranks are taken to be on, if not those of the group. Returns what was told of the
        loading."""
        if machines is not None and machines != self.meshes.machines:
            self.meshes = Meshes(self.device.type, machines=machines)
        told: list[tuple[int, int]] = []
        self.weights = RankWeights(
            path,
            dtype,
            compute_dtype,
            self.device,
            sharding,
            lambda done, total: told.append((done, total)),
            mates=self.meshes.mates(),
        )
        self.dit = ParallelDiT(self.weights.model, self.meshes)
        return told

    def predict(self, passes: list[tuple[Any, ...]], split: tuple[int, int]) -> tuple[list[Tensor], int]:
        """passes: z, sigma, features, mask, and where some are left out, the blocks. Returns their results, and the
        bytes sent."""
        made = [
            Pass(z, sigma, self.dit.encode_text(features, mask), skip=[i for blocks in skip for i in blocks])
            for z, sigma, features, mask, *skip in passes
        ]
        before = self.dit.bytes_sent
        results = self.dit.predict(made, Split(*split))
        self.dit.forget_run()
        return results, self.dit.bytes_sent - before

    def between(self) -> int:
        """Bytes that this rank has sent to other machines."""
        return self.dit.traffic.between

    def bandwidth(self) -> float:
        return bandwidth_between(self.meshes.machines, self.device)

    def patch(self, patches: dict[str, list[WeightPatch]]) -> int:
        """Returns how many tensors were read for it."""
        before = self.weights.tensors_read
        self.weights.patch(patches)
        return self.weights.tensors_read - before

    def bytes(self) -> int:
        return self.weights.bytes

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of every parameter."""
        parameters = self.weights.model.named_parameters()
        return {name: (p.to_local() if hasattr(p, "to_local") else p).clone() for name, p in parameters}

    def tensors_in_memory(self) -> int:
        """Bytes of all tensors of this process."""
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())
