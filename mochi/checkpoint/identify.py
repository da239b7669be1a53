"""What a weight file seems to be, in words, for messages."""

from __future__ import annotations

from collections.abc import Callable

from .file import WeightFile
from .layouts import comfy, diffusers, genmo, t5
from .layouts.genmo import Parts

LAYOUTS: dict[str, Callable[[WeightFile], Parts]] = {
    "published": genmo.parts,
    "ComfyUI": comfy.parts,
    "diffusers": diffusers.parts,
    "T5": t5.parts,
}
"""Every layout that can be read; the first that finds something in a file is the one."""

TITLES = {
    "dit": "Mochi AsymmDiT",
    "decoder": "Mochi AsymmVAE decoder",
    "encoder": "Mochi AsymmVAE encoder",
    "t5": "T5 text encoder",
}

PART_OF_T5 = "a part of a T5 text encoder"

# Names that only occur in the files of one kind of model. Encoders stand last: whole models have them too.
OTHERS = {
    "lora_A": "a LoRA, which goes into a LoRA loader",
    "lora_down": "a LoRA, which goes into a LoRA loader",
    "double_blocks.0.": "a Flux or Hunyuan model",
    "single_transformer_blocks.0.": "a Flux model in the diffusers layout",
    "input_blocks.0.": "a Stable Diffusion model",
    "joint_blocks.0.": "a Stable Diffusion 3 model",
    "self_attn.q.weight": "a Wan video model",
    "adaln_single.": "an LTX video or PixArt model",
    "blocks.0.attn.qkv_x": "a part of a Mochi AsymmDiT",
    "attn1.add_q_proj": "a part of a Mochi AsymmDiT in the diffusers layout",
    "stack.0.weight": "a part of a Mochi AsymmVAE",
    "conv1.conv.weight": "a part of a video VAE",
    "decoder.up": "an image VAE",
    "decoder.mid": "an image VAE",
    "text_model.encoder.layers": "a CLIP text encoder",
    "SelfAttention.q.weight": PART_OF_T5,
}


def layout_of(file: WeightFile) -> tuple[str | None, Parts]:
    """The layout of a file and the parts of a Mochi in it; None and nothing when no layout fits."""
    for layout, parts in LAYOUTS.items():
        if found := parts(file):
            return layout, found
    return None, {}


def parts_of(file: WeightFile) -> Parts:
    """The parts of a Mochi in a file, by the first layout that fits; empty when none does."""
    return layout_of(file)[1]


def seems_to_be(file: WeightFile) -> str:
    """`the Mochi AsymmVAE decoder`, `a T5 text encoder`, ... or that it is unknown."""
    found = parts_of(file)
    if found.keys() - {"t5"}:
        return "the " + " and ".join(TITLES[part] for part in found)
    titles = (title for fragment, title in OTHERS.items() if any(fragment in name for name in file.entries))
    other = next(titles, None)
    if found and other in (None, PART_OF_T5):
        return "a T5 text encoder"
    return other or "no model that is known here"
