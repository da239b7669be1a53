"""What ComfyUI loads: the table of nodes and the folder of their help pages.

The table is written out, so that the registry and the Manager can read it without running code.
"""

from .nodes import cache, edit, loaders, lora, masks, parallel, sampler, text, vae, video
from .nodes.host.complaints import show_complaints_once
from .nodes.host.sockets.lora_names import teach_comfyui_lora_names

NODE_CLASS_MAPPINGS = {
    "MochiLoadT5": loaders.LoadT5,
    "MochiLoadDiT": loaders.LoadDiT,
    "MochiLoadVAE": loaders.LoadVAE,
    "MochiLoadLoRA": lora.LoadLoRA,
    "MochiTeaCache": cache.TeaCache,
    "MochiTextEncode": text.TextEncode,
    "MochiSigmas": sampler.Sigmas,
    "MochiSampler": sampler.Sampler,
    "MochiExtend": masks.Extend,
    "MochiNoiseMask": masks.NoiseMask,
    "MochiInvert": edit.Invert,
    "MochiResample": edit.Resample,
    "MochiVAEDecode": vae.VAEDecode,
    "MochiVAEEncode": vae.VAEEncode,
    "MochiSaveVideo": video.SaveVideo,
    "MochiParallelSettings": parallel.Parallel,
    "MochiGroupStatus": parallel.GroupStatus,
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

# The one thing of ComfyUI that this pack replaces. The function says why.
teach_comfyui_lora_names()
show_complaints_once()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
