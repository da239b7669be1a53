"""ComfyUI's model patcher for a model whose weights are in other processes."""

from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ....mochi.errors import MochiError
from ....mochi.parallel.owner.client import RemoteModel, Work
from .group import follow, groups

NO_TRAINING = (
    "A node wants to train upon this model (Train LoRA), but its weights are in other processes. Choose 1 GPU in its "
    "loader."
)


class RemotePatcher(ModelPatcher):
    """Loading and unloading happens in the ranks.

    Attributes:
        model: an nn.Module on the meta device, since names and shapes are enough for the host. It has two more
            attributes: `remote`, the RemoteModel, and `expected_bytes`, what its weights are going to take on rank 0.
            Clones share it.
    """

    model: Any

    @property
    def remote(self) -> RemoteModel:
        return self.model.remote

    def prepare(self) -> Work[Any]:
        """Have the ranks load what is to be used next."""
        return self.remote.load()

    def model_size(self) -> int:
        """Bytes on the device that the host manages. It unloads other models to make room for them."""
        if str(self.load_device) not in self.remote.manager.devices:
            return 0
        return self.loaded_size() or self.model.expected_bytes

    def loaded_size(self) -> int:
        return self.remote.nbytes if self.remote.loaded else 0

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Load, all or nothing; called before every run. Returns the bytes that came."""
        before = self.loaded_size()
        with self.use_ejected(skip_and_inject_on_exit_only=True):
            self.unpatch_model()
            self.patch_model(load_weights=False)
        if not before:
            mm.soft_empty_cache()  # what this process has and does not use, the rank on the same device cannot use
        follow(self.prepare())
        self.model.device = device_to
        return self.loaded_size() - before

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        return 0

    def unpatch_model(self, device_to: torch.device | None = None, unpatch_weights: bool = True) -> None:
        """Weights are patched in the ranks, and there is nothing here to move."""
        super().unpatch_model(unpatch_weights=False)

    def clone(self, *args: Any, **options: Any) -> Any:
        if options.get("force_deepcopy"):
            raise MochiError(NO_TRAINING)
        return super().clone(*args, **options)

    def add_weight_wrapper(self, *_: Any, **__: Any) -> None:
        """Called by a node that trains, of an older host: a newer one's clones the MODEL first. Raises MochiError."""
        raise MochiError(NO_TRAINING)

    def deepclone_multigpu(self, *args: Any, **options: Any) -> Any:
        """Called for one of the host's nodes that use or select GPUs. Raises MochiError."""
        devices = ", ".join(dict.fromkeys(self.remote.manager.devices))
        raise MochiError(
            f"The weights of this model are in processes of their own (on {devices}), and no node can move or copy "
            "them: take out MultiGPU CFG Split and the nodes that select a device. GPUs are chosen in the loader."
        )

    def detach(self, unpatch_all: bool = True) -> nn.Module:
        """Unload from the ranks where the host wants the memory (unpatch_all); otherwise a clone may still use them."""
        super().detach(unpatch_all)
        if unpatch_all:
            with groups.lock:
                self.remote.unload()
            self.model.device = self.offload_device
        return self.model
