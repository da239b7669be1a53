"""The canvas: one file for each stage of a graph. A node reads widgets, calls the core, returns sockets."""

from __future__ import annotations

from .cache import TeaCache
from .edit import Invert, Resample
from .loaders import LoadDiT, LoadT5, LoadVAE
from .lora import LoadLoRA
from .masks import Extend, NoiseMask
from .parallel import GroupStatus, Parallel
from .sampler import Sampler, Sigmas
from .text import TextEncode
from .vae import VAEDecode, VAEEncode
from .video import SaveVideo

__all__ = [
    "Extend",
    "GroupStatus",
    "Invert",
    "LoadDiT",
    "LoadLoRA",
    "LoadT5",
    "LoadVAE",
    "NoiseMask",
    "Parallel",
    "Resample",
    "Sampler",
    "SaveVideo",
    "Sigmas",
    "TeaCache",
    "TextEncode",
    "VAEDecode",
    "VAEEncode",
]
