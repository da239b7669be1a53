"""Weight patches of ComfyUI's nodes (LoRA and its kin) as the ranks take them."""

from collections.abc import Mapping, Sequence

import comfy.lora
import comfy.model_management as mm
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....mochi.checkpoint import Plan
from ....mochi.lora import swap_halves
from ....mochi.lora.patch import LoraPatch, ReplacePatch, WeightPatch
from ....mochi.quant import QUANT_DTYPE
from ..sockets.dora import DoraAdapter
from ..sockets.lora_names import PREFIX

HostPatch = tuple
"""(strength, what to do, strength of the weight, offset, function), as ModelPatcher keeps them."""


class FileWeights:
    """The weights of a planned network as its file has them, rounded to the network's dtypes."""

    def __init__(self, plan: Plan):
        # The network, which has these weights, is not kept: in a circle it would outlive its MODEL.
        self._entries, self._dtypes = plan.entries, plan.dtypes
        # Quantised weights are computed with in the dtype of the patch embedding, which is never quantised.
        self._plain = plan.model.x_embedder.proj.weight.dtype

    def __getitem__(self, name: str) -> Tensor:
        dtype = self._dtypes[name]
        return self._entries[name].read().to(self._plain if dtype == QUANT_DTYPE else dtype)


def for_ranks(
    patches: Mapping[str, Sequence[HostPatch]], weights: FileWeights, device: torch.device
) -> dict[str, list[WeightPatch]]:
    """Patches of a MODEL, by its parameters, as patches for the ranks, by the network's parameters.

    A LoRA, on a weight or some of its rows, is sent as its factors. With patches of any other kind the host computes
    the weight from the file's on `device`, as it does on one GPU, and the result is sent.
    """
    out: dict[str, list[WeightPatch]] = {}
    for key, of_weight in patches.items():
        name = key.removeprefix(PREFIX)
        if all(map(_has_factors, of_weight)):
            out[name] = [_lora_patch(patch) for patch in of_weight]
        else:
            out[name] = [ReplacePatch(_patched(weights[name], of_weight, key, device))]
    return out


def _has_factors(patch: HostPatch) -> bool:
    _, adapter, _, offset, function = patch
    if isinstance(adapter, DoraAdapter):
        return True
    if type(adapter) is not LoRAAdapter or function not in (None, swap_halves):
        return False
    up, _, _, mid, dora_scale, reshape = adapter.weights
    on_rows = offset is None or (function is None and offset[0] == 0 and offset[2] == len(up))
    return on_rows and mid is None and dora_scale is None and reshape is None


def _lora_patch(patch: HostPatch) -> LoraPatch:
    strength, adapter, strength_model, offset, function = patch
    if isinstance(adapter, DoraAdapter):
        return adapter.patch(strength, 0 if offset is None else offset[1], strength_model)
    up, down, alpha, *_ = adapter.weights
    scale = strength * (1.0 if alpha is None else alpha / down.shape[0])
    up, down = up.flatten(1).cpu(), down.flatten(1).cpu()
    start = None if offset is None else offset[1]
    return LoraPatch(up if function is None else function(up), down, scale, start, base_scale=strength_model)


def _patched(weight: Tensor, patches: Sequence[HostPatch], key: str, device: torch.device) -> Tensor:
    # This is what ModelPatcher.patch_weight_to_device does.
    whole = mm.cast_to_device(weight, device, torch.float32, copy=True)
    return comfy.lora.calculate_weight(patches, whole, key).to("cpu", weight.dtype)
