"""What ComfyUI loads: the table of nodes and the folder of their help pages.

The table is written out, so that the registry and the Manager can read it without running code.
"""

from .nodes import (
    batch,
    cache,
    edit,
    image_to_video,
    loaders,
    lora,
    masks,
    parallel,
    safety,
    sampler,
    text,
    train,
    vae,
    video,
)
from .nodes.host.complaints import show_complaints_once
from .nodes.host.folders import leave_folders_while_queueing
from .nodes.host.old_ids import serve_old_ids
from .nodes.host.sockets.lora_names import teach_comfyui_lora_names

NODE_CLASS_MAPPINGS = {
    "MochiParallelLoadT5": loaders.LoadT5,
    "MochiParallelLoadDiT": loaders.LoadDiT,
    "MochiParallelLoadVAE": loaders.LoadVAE,
    "MochiParallelLoadLoRA": lora.LoadLoRA,
    "MochiParallelTeaCache": cache.TeaCache,
    "MochiParallelTextEncode": text.TextEncode,
    "MochiParallelSigmas": sampler.Sigmas,
    "MochiParallelSampler": sampler.Sampler,
    "MochiParallelExtend": masks.Extend,
    "MochiParallelImageToVideo": image_to_video.ImageToVideo,
    "MochiParallelTransition": image_to_video.Transition,
    "MochiParallelNoiseMask": masks.NoiseMask,
    "MochiParallelInvert": edit.Invert,
    "MochiParallelResample": edit.Resample,
    "MochiParallelVAEDecode": vae.VAEDecode,
    "MochiParallelVAEEncode": vae.VAEEncode,
    "MochiParallelSaveVideo": video.SaveVideo,
    "MochiParallelSafety": safety.Safety,
    "MochiParallelSettings": parallel.Parallel,
    "MochiParallelGroupStatus": parallel.GroupStatus,
    "MochiParallelBatch": batch.ClusterBatch,
    "MochiParallelTrainLoRA": train.TrainLoRA,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "MochiParallelLoadT5": "Load T5 (Mochi)",
    "MochiParallelLoadDiT": "Load AsymmDiT (Mochi)",
    "MochiParallelLoadVAE": "Load AsymmVAE (Mochi)",
    "MochiParallelLoadLoRA": "Load LoRA (Mochi)",
    "MochiParallelTeaCache": "TeaCache (Mochi)",
    "MochiParallelTextEncode": "Mochi Text Encode",
    "MochiParallelSigmas": "Mochi Sigmas",
    "MochiParallelSampler": "Mochi Sampler",
    "MochiParallelExtend": "Mochi Extend",
    "MochiParallelImageToVideo": "Mochi Image to Video",
    "MochiParallelTransition": "Mochi Transition",
    "MochiParallelNoiseMask": "Mochi Noise Mask",
    "MochiParallelInvert": "Mochi Invert",
    "MochiParallelResample": "Mochi Resample",
    "MochiParallelVAEDecode": "Mochi VAE Decode",
    "MochiParallelVAEEncode": "Mochi VAE Encode",
    "MochiParallelSaveVideo": "Mochi Save Video",
    "MochiParallelSafety": "Mochi Safety",
    "MochiParallelSettings": "Mochi Parallel Settings",
    "MochiParallelGroupStatus": "Mochi Group Status",
    "MochiParallelBatch": "Mochi Cluster Batch",
    "MochiParallelTrainLoRA": "Mochi Train LoRA",
}

WEB_DIRECTORY = "./web"

leave_folders_while_queueing()
serve_old_ids(NODE_CLASS_MAPPINGS)
show_complaints_once()
# The one thing of ComfyUI that this pack replaces. The function says why.
teach_comfyui_lora_names()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
