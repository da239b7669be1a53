"""The MODEL socket of an AsymmDiT that is spread over the ranks of a group."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import comfy.conds
import comfy.model_management as mm
from torch import Tensor

from ....mochi.checkpoint import Checkpoint
from ....mochi.dit.backends import SDPA
from ....mochi.errors import GroupError, MochiError
from ....mochi.kernels.graph_break import outside
from ....mochi.parallel.owner.client import RemoteDiT, TextRows, Work
from ....mochi.parallel.plan import plan_dit
from ....mochi.parallel.protocol import LoadDiT
from ....mochi.parallel.settings import ParallelSettings
from ....mochi.quant import QUANT_DTYPE
from ....mochi.variant import PREVIEW, takes_frames
from ..sockets.attention import attention_of_ranks, override_in
from ..sockets.given import give_frames_levels
from ..sockets.model import Config, Mochi
from ..sockets.network import HostDiT
from ..sockets.step_cache import keys_of, plan_of, report
from .block_patches import skipped_blocks
from .group import follow, groups
from .patcher import RemotePatcher
from .patches import PREFIX, FileWeights, for_ranks

log = logging.getLogger(__name__)


class RemoteNetwork(HostDiT):
    """The network as the host sees it: names and shapes, on the meta device. Its forward pass is made by the ranks."""

    remote: RemoteDiT
    weights: FileWeights
    _is_cached = False  # whether the ranks have a step cache of this run

    @outside  # there is nothing here to compile
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(*args, **kwargs)

    def text_cond(self, features: Tensor, mask: Tensor) -> RowsCond:
        text = self.remote.text(features, mask)
        return RowsCond([(text, row) for row in range(len(text))])

    def _flow(self, x: Tensor, sigma: Tensor, text: Any, options: dict[str, Any]) -> Tensor:
        _check_options(options)
        plan, keys, level = plan_of(options), [], 1.0
        self._is_cached = plan is not None
        if plan is not None:
            keys, level = keys_of(x, options), options["sigmas"][0].item()
        skip = tuple(block for block in skipped_blocks(options) if block < len(self.blocks))
        return follow(self.remote.forward(x.cpu(), sigma.cpu(), text, plan, keys, level, skip)).to(x.device)

    def forget_run(self) -> None:
        """Free what the ranks kept for the steps of a run. A whole run has done so by itself."""
        super().forget_run()
        if self._is_cached:
            self._is_cached = False
            try:
                with groups.lock:
                    report(self.remote.forget_run())
            except GroupError:
                log.exception("The group failed at the end of a run")  # and the memory went with it


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise MochiError where transformer options ask for what happens inside the network."""
    skipped_blocks(options)
    if (override := override_in(options)) is not None:
        raise MochiError(
            f"A node puts another attention in place ({override}), but the network is in other processes. Choose 1 GPU "
            "in Load AsymmDiT (Mochi), or take the node out; `attention` in the loader is for ranks too."
        )


class RowsCond(comfy.conds.CONDRegular):
    """Prompts that the ranks know, one for each sample of a batch. Any two can share a batch: the ranks split it."""

    cond: TextRows

    def process_cond(self, batch_size: int, **_: Any) -> RowsCond:
        repeats = math.ceil(batch_size / len(self.cond))
        return RowsCond((list(self.cond) * repeats)[:batch_size])

    def can_concat(self, other: RowsCond) -> bool:
        return True

    def concat(self, others: list[RowsCond]) -> Any:
        return [row for cond in (self, *others) for row in cond.cond]

    def size(self) -> list[int]:
        return [len(self.cond)]


class RemoteMochi(Mochi):
    """ComfyUI's Mochi around a network that is elsewhere."""

    def __init__(self, config: Any, network: RemoteNetwork, expected_bytes: int):
        super().__init__(config, lambda **_: network, mm.unet_offload_device())
        self.remote, self.expected_bytes = network.remote, expected_bytes

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Nothing but the prompt, since anything else could keep conditions from sharing a batch."""
        return {"text": self.diffusion_model.text_cond(*self.prompt(**kwargs))}

    def memory_required(self, input_shape: list[int], cond_shapes: dict | None = None) -> float:
        """Bytes that one rank needs for a forward pass.

        It is 0 when the host gives shapes of conditions: then it asks whether these can share a batch.
        """
        return 0 if cond_shapes else super().memory_required(input_shape) / len(self.remote.manager.devices)

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        raise MochiError("The weights of this MODEL are in other processes. To save it, choose 1 GPU.")


def load_remote_model(
    checkpoint: Checkpoint,
    dtype: str,
    settings: ParallelSettings,
    attention: str = SDPA,
    compiled: bool = False,
    variant: str = PREVIEW,
) -> RemoteDiTPatcher:
    """A MODEL like `load_model`'s, over the ranks of the group that the settings ask for. Nothing is loaded yet.

    Raises MochiError where the devices or the split cannot be, CheckpointError like `load_model`.
    """
    config, manager = Config(checkpoint, dtype), groups.manager_for(settings)
    if manager.is_elsewhere:
        config.compute_elsewhere(manager.device_type)
    plan = checkpoint.plan("dit", RemoteNetwork, config.rounded, config.plain)
    network: RemoteNetwork = plan.model
    rounded, fast = config.rounded, config.fast
    if QUANT_DTYPE not in plan.dtypes.values():
        rounded, fast = config.plain, False  # rounded so on the ranks too, which may compute in another dtype
    attention = attention_of_ranks(attention)
    request = LoadDiT(
        checkpoint.path.absolute(), rounded, config.computed, attention=attention, compiled=compiled, fast=fast
    )
    remote = plan_dit(
        request, network, settings, manager.devices, machines=manager.machines, smallest_gpu=manager.smallest_gpu
    )
    network.remote, network.weights = RemoteDiT(manager, remote.request, remote.degrees), FileWeights(plan)
    # An older host trains what has such a list, and asks the patcher: one vector is enough to be asked, and to refuse.
    asked: Any = network.get_submodule("blocks.0.attn.q_norm_x")
    asked.weight_function = []
    model = RemoteMochi(config, network, remote.nbytes)
    groups.introduce(
        model, network.remote, f"{checkpoint.path.name} ({remote.split}, weights {remote.request.sharding})"
    )
    patcher = RemoteDiTPatcher(model, mm.get_torch_device(), mm.unet_offload_device())
    model.variant = variant
    if takes_frames(variant):
        give_frames_levels(patcher)
    return patcher


class RemoteDiTPatcher(RemotePatcher):
    """Weight patches (LoRA) reach the ranks when they change."""

    def prepare(self) -> Work[Any]:
        self._check()
        key = self.patches_uuid if self.patches else None
        remote: RemoteDiT = self.model.remote
        if remote.loaded and remote.patched == key:
            return remote.load()
        return remote.patch(key, for_ranks(self.patches, self._weights(), self.load_device))

    def cleanup(self) -> None:
        """Called at the end of a run, whatever its end was."""
        super().cleanup()
        self.model.diffusion_model.forget_run()

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list]:
        """Each weight of the file with its patches, for nodes that merge models."""
        weights = self._weights()
        names = [name for name in self.model.state_dict() if name.startswith(filter_prefix or "")]
        pristine = {name: weights[name.removeprefix(PREFIX)] for name in names if name.startswith(PREFIX)}
        return {name: [(weight, _as_it_is), *self.patches.get(name, [])] for name, weight in pristine.items()}

    def add_hook_patches(self, *args: Any, **kwargs: Any) -> Any:
        raise MochiError(
            "A hook changes weights (a LoRA) while the sampler runs, but the weights are in other processes. Load the "
            "LoRA with Load LoRA instead, or choose 1 GPU in Load AsymmDiT (Mochi)."
        )

    def _weights(self) -> FileWeights:
        return self.model.diffusion_model.weights

    def _check(self) -> None:
        _check_options(self.model_options["transformer_options"])
        if self.weight_wrapper_patches or self.object_patches.get("manual_cast_dtype"):
            raise MochiError(
                "A node wants to change how weights are used or cast, but these are in other processes. Choose the "
                "dtype in Load AsymmDiT (Mochi), or 1 GPU there."
            )


def _as_it_is(weight: Tensor, **_: Any) -> Tensor:
    return weight
