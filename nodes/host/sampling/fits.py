"""A warning before a run that is going to be short of memory."""

import logging
from collections.abc import Sequence

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher

from ....mochi.advice import warning_for
from ....mochi.dit import AsymmDiT
from ....mochi.memory import CONTEXT, Denoising
from ..progress import show_text
from ..sockets.dtypes import free_memory, total_memory

log = logging.getLogger(__name__)


A_SECOND = (1, 12, 5, 60, 106)
"""Latents of 25 frames at 848 x 480: what a loaded model should be able to make at least."""


def warn_if_short(model: ModelPatcher, latents: Sequence[int] = A_SECOND) -> None:
    """Log, and show in the node that runs, what a run needs that its device does not have. latents: their shape."""
    text = shortage(model, latents)
    if text is not None:
        log.warning(text)
        show_text(text)


def shortage(model: ModelPatcher, latents: Sequence[int]) -> str | None:
    """One sentence where denoising latents of this shape is going to be short of memory, else None.

    It is None, too, where nobody can tell: for another network than ours, and for ranks on a CPU or elsewhere."""
    network = model.get_model_object("diffusion_model")
    if not isinstance(network, AsymmDiT):
        return None
    compute = model.model.manual_cast_dtype or model.model.get_dtype()
    size = sum(p.nbytes for p in network.parameters())
    remote = getattr(network, "remote", None)
    if remote is not None:
        if remote.manager.is_elsewhere:
            return None
        devices = [torch.device(name) for name in remote.manager.devices]
        if devices[0].type == "cpu":
            return None
        free = min(total_memory(device) for device in devices) - CONTEXT
        run = Denoising(network.config, size, latents, len(devices), remote.request.sharding, compute)
        return warning_for(run, free)
    if mm.is_device_cpu(model.load_device):  # where the weights are in memory already
        free = free_memory(model.load_device) + size
        return warning_for(Denoising(network.config, size, latents, compute=compute), free)
    # The host unloads other models, and streams what does not fit.
    free = total_memory(model.load_device) - CONTEXT
    return warning_for(Denoising(network.config, size, latents, 1, "offloaded", compute), free)
