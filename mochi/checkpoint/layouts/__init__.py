"""Layouts: how each publisher names the tensors, translated to the names of the published checkpoint."""

from collections.abc import Callable

from ..lazy import LazyTensors
from . import comfy, diffusers, genmo, t5
from .genmo import Parts, under
from .wrappers import prefixes_of, unwrapped, without_averages

LAYOUTS: dict[str, Callable[[LazyTensors], Parts]] = {
    "published": genmo.parts,
    "ComfyUI": comfy.parts,
    "diffusers": diffusers.parts,
    "T5": t5.parts,
}
"""Every layout that can be read. The first one that finds a part in a file is used."""

ENDINGS = (
    *(names[1] for names in genmo.SIGNATURES.values()),
    *(names[1] for names in (diffusers.DIT, diffusers.DECODER, diffusers.ENCODER)),
    t5.QUERY,
)
"""How a name of each network ends, whatever stands before it."""

TITLES = {
    "dit": "Mochi AsymmDiT",
    "decoder": "Mochi AsymmVAE decoder",
    "encoder": "Mochi AsymmVAE encoder",
    "t5": "T5 text encoder",
}

ADVICE = {"t5": "; choose t5xxl_fp16.safetensors or a google/t5-v1_1-xxl folder"}
"""Advice for messages, by part: what to choose instead of a file that does not hold it."""

PART_OF_T5 = "a part of a T5 text encoder"

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
"""Names that occur only in files of one kind of model. Encoders come last: files of whole models have them too."""


def find_parts(tensors: LazyTensors) -> tuple[str | None, Parts]:
    """The layout of a file, and the parts of a Mochi in it; None and nothing when no layout fits.

    Names can have wrappers in them, and anything before them. A network beside its own moving average is taken.

    Raises ValueError on tensors that should make up one weight, but cannot, and on two networks of a kind.
    """
    bare = unwrapped(tensors)
    for candidates in (without_averages(bare), bare):
        layout, found = _parts(candidates)
        if not found:
            layout, found = _parts_below(candidates)
        if found:
            return layout, found
    return None, {}


def _parts(tensors: LazyTensors) -> tuple[str | None, Parts]:
    for layout, parts in LAYOUTS.items():
        if found := parts(tensors):
            return layout, found
    return None, {}


def _parts_below(tensors: LazyTensors) -> tuple[str | None, Parts]:
    """The parts whose names have something before them, which may be another for each."""
    first, found, places = None, {}, {}
    for prefix in prefixes_of(tensors, ENDINGS):
        if prefix.startswith(tuple(places.values())):  # `a.decoder.`, where `a.` has been found
            continue
        layout, parts = _parts(under(prefix, tensors))
        if twice := parts.keys() & found.keys():
            part = min(twice)
            raise ValueError(f"two of {TITLES[part]}, under {places[part]} and {prefix}; choose a file with one")
        first, found = first or layout, found | parts
        places |= dict.fromkeys(parts, prefix)
    return first, found


def seems_to_be(tensors: LazyTensors, parts: Parts) -> str:
    """`the Mochi AsymmVAE decoder`, `a T5 text encoder`, ... or that the file is unknown."""
    if parts.keys() - {"t5"}:
        return "the " + " and ".join(TITLES[part] for part in parts)
    titles = (title for fragment, title in OTHERS.items() if any(fragment in name for name in tensors))
    other = next(titles, None)
    if parts and other in (None, PART_OF_T5):
        return "a T5 text encoder"
    return other or "no model that is known here"
