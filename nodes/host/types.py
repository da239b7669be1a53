"""The types of the sockets of ComfyUI that nodes of this pack read and write."""

from typing import Any

from comfy.model_patcher import ModelPatcher as Model
from comfy.sd import CLIP as Clip
from comfy.sd import VAE as Vae
from torch import Tensor

Conditioning = list[tuple[Tensor, dict[str, Any]]]
"""Text features (B, L, width), and what belongs to them, such as `attention_mask`."""

Latent = dict[str, Any]
"""`samples` (B, 12, T, h, w), and what belongs to them, such as `noise_mask`."""

__all__ = ["Clip", "Conditioning", "Latent", "Model", "Vae"]
