"""What ComfyUI loads: the table of nodes and the folder of their help pages.

The table is written out, so that the registry and the Manager can read it without running code.
"""

from .nodes import (
    Extend,
    GroupStatus,
    Invert,
    LoadDiT,
    LoadLoRA,
    LoadT5,
    LoadVAE,
    NoiseMask,
    Parallel,
    Resample,
    Sampler,
    SaveVideo,
    Sigmas,
    TeaCache,
    TextEncode,
    VAEDecode,
    VAEEncode,
)

NODE_CLASS_MAPPINGS = {
    "MochiLoadT5": LoadT5,
    "MochiLoadDiT": LoadDiT,
    "MochiLoadVAE": LoadVAE,
    "MochiLoadLoRA": LoadLoRA,
    "MochiTeaCache": TeaCache,
    "MochiTextEncode": TextEncode,
    "MochiSigmas": Sigmas,
    "MochiSampler": Sampler,
    "MochiExtend": Extend,
    "MochiNoiseMask": NoiseMask,
    "MochiInvert": Invert,
    "MochiResample": Resample,
    "MochiVAEDecode": VAEDecode,
    "MochiVAEEncode": VAEEncode,
    "MochiSaveVideo": SaveVideo,
    "MochiParallelSettings": Parallel,
    "MochiGroupStatus": GroupStatus,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "MochiLoadT5": "Load T5 (Mochi)",
    "MochiLoadDiT": "Load AsymmDiT (Mochi)",
    "MochiLoadVAE": "Load AsymmVAE (Mochi)",
    "MochiLoadLoRA": "Load LoRA (Mochi)",
    "MochiTeaCache": "TeaCache (Mochi)",
    "MochiTextEncode": "Mochi Text Encode",
    "MochiSigmas": "Mochi Sigmas",
    "MochiSampler": "Mochi Sampler",
    "MochiExtend": "Mochi Extend",
    "MochiNoiseMask": "Mochi Noise Mask",
    "MochiInvert": "Mochi Invert",
    "MochiResample": "Mochi Resample",
    "MochiVAEDecode": "Mochi VAE Decode",
    "MochiVAEEncode": "Mochi VAE Encode",
    "MochiSaveVideo": "Mochi Save Video",
    "MochiParallelSettings": "Mochi Parallel Settings",
    "MochiGroupStatus": "Mochi Group Status",
}

WEB_DIRECTORY = "./web"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
