"""The MODEL socket: ComfyUI's own model patcher around AsymmDiT, so that its memory management, casting, LoRA
patches, samplers and model-patch nodes work on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP

from ...mochi.checkpoint import load_dit
from ...mochi.checkpoint.file import WeightFile
from ...mochi.checkpoint.load import read_config
from ...mochi.config import DiTConfig
from ...mochi.errors import MochiError
from .checks import check_text
from .dtypes import weight_dtype
from .latents import latent_format
from .network import HostDiT, TextCond


class _Config(comfy.supported_models_base.BASE):
    unet_config = {}
    unet_extra_config = {}
    sampling_settings = {"multiplier": 1.0, "shift": 6.0}
    supported_inference_dtypes = [torch.bfloat16, torch.float32]


class Mochi(comfy.model_base.GenmoMochi):
    """ComfyUI's Mochi (which tells it what LoRA names mean) with our network in it."""

    def __init__(self, config: _Config, network: Callable[..., HostDiT], device: torch.device):
        # Not GenmoMochi.__init__, which builds the built-in network.
        flow = comfy.model_base.ModelType.FLOW
        comfy.model_base.BaseModel.__init__(self, config, flow, device=device, unet_model=network)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Called once a run for each conditioning; the work on the prompt that no step changes is done here."""
        features, mask = kwargs.get("cross_attn"), kwargs.get("attention_mask")
        check_text(features, self.diffusion_model.config.text_width)
        if mask is None:
            mask = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        if mask.shape != features.shape[:2]:
            raise MochiError(
                f"A conditioning has {features.shape[1]} tokens and a mask for {mask.shape[-1]}: it was put together "
                "from several. Mochi reads one prompt of 256 tokens; use Conditioning Combine or one longer prompt."
            )
        conds = super().extra_conds(**{**kwargs, "attention_mask": mask})
        # Weights that a hook changes from step to step, or that are trained, change the text with them.
        if kwargs.get("hooks") is None and not torch.is_grad_enabled():
            device = kwargs["device"]
            features = features.to(device, self.manual_cast_dtype or self.get_dtype())
            conds["text"] = TextCond(self.diffusion_model.encode_text(features, mask.to(device).bool()))
        return conds


def load_model(path: Path, dtype: str = "auto") -> ModelPatcher:
    """A MODEL from a file of AsymmDiT weights. dtype: of the widget; "auto" is the host's choice.

    Raises CheckpointError for anything that is not a whole AsymmDiT.
    """
    sizes = read_config(path, "dit")
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    supported = _Config.supported_inference_dtypes
    weights = weight_dtype(dtype, lambda: _default_dtype(path, supported))

    config = _Config({"image_model": "mochi_preview"})
    config.latent_format = latent_format(sizes)
    config.memory_usage_factor = memory_factor(sizes)
    config.set_inference_dtype(weights, mm.unet_manual_cast(weights, load_device, supported))

    def network(dtype: torch.dtype, device: torch.device, operations: Any, **_: Any) -> HostDiT:
        return load_dit(path, dtype, device, operations, network=HostDiT)

    patcher = ModelPatcher(Mochi(config, network, offload_device), load_device, offload_device)
    patcher.add_callback(CallbacksMP.ON_CLEANUP, _forget_run)
    return patcher


def _forget_run(patcher: ModelPatcher) -> None:
    network = patcher.model.diffusion_model
    if isinstance(network, HostDiT):  # a patch can put another one there
        network.forget_run()


def _default_dtype(path: Path, supported: list[torch.dtype]) -> torch.dtype:
    """The host's choice for a file of this size and dtype."""
    sizes = {entry: math.prod(entry.shape) for entry in WeightFile(path).entries.values()}
    stored = max(sizes, key=sizes.get).dtype
    return mm.unet_dtype(model_params=sum(sizes.values()), supported_dtypes=supported, weight_dtype=stored)


def memory_factor(config: DiTConfig) -> float:
    """ComfyUI's estimate of the memory of a forward pass, tuned to the published model, goes with the width."""
    return 2.0 * config.hidden_x / DiTConfig.hidden_x
