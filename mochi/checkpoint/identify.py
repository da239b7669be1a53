"""What a weight file seems to be, in words, for messages."""

from __future__ import annotations

from collections.abc import Callable

from . import comfy, genmo
from .file import WeightFile
from .genmo import Parts

LAYOUTS: tuple[Callable[[WeightFile], Parts], ...] = (genmo.parts, comfy.parts)
"""Every layout that can be read; the first that finds something in a file is the one."""

TITLES = {"dit": "Mochi AsymmDiT", "decoder": "Mochi AsymmVAE decoder", "encoder": "Mochi AsymmVAE encoder"}

# Names that only occur in the files of one kind of model.
OTHERS = {
    "lora_A": "a LoRA, which goes into a LoRA loader",
    "lora_down": "a LoRA, which goes into a LoRA loader",
    "transformer_blocks.0.attn1.add_q_proj": "a Mochi AsymmDiT in the diffusers layout",
    "block_in.resnets.0": "a Mochi AsymmVAE in the diffusers layout",
    "SelfAttention.q.weight": "a T5 text encoder",
    "text_model.encoder.layers": "a CLIP text encoder",
    "double_blocks.0.": "a Flux or Hunyuan model",
    "input_blocks.0.": "a Stable Diffusion model",
    "joint_blocks.0.": "a Stable Diffusion 3 model",
    "self_attn.q.weight": "a Wan video model",
    "blocks.0.attn.qkv_x": "a part of a Mochi AsymmDiT",
    "stack.0.weight": "a part of a Mochi AsymmVAE",
    "decoder.up": "an image VAE",
    "decoder.mid": "an image VAE",
}


def parts_of(file: WeightFile) -> Parts:
    """The networks of Mochi that are in a file, by the first layout that fits; empty when none does."""
    return next((found for layout in LAYOUTS if (found := layout(file))), {})


def seems_to_be(file: WeightFile) -> str:
    """`the Mochi AsymmVAE decoder`, `a T5 text encoder`, ... or that it is unknown."""
    found = parts_of(file)
    if found:
        return "the " + " and ".join(TITLES[network] for network in found)
    for fragment, title in OTHERS.items():
        if any(fragment in name for name in file.entries):
            return title
    return "no model that is known here"
