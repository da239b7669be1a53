"""ComfyUI's files of several parts, each under its prefix: decoder and encoder together, or the whole model."""

from ..lazy import LazyTensors
from . import t5
from .genmo import Parts, network_of, under

PREFIXES = {
    "dit": ("model.diffusion_model.", "diffusion_model."),
    "decoder": ("decoder.", "vae.decoder.", "first_stage_model.decoder."),
    "encoder": ("encoder.", "vae.encoder.", "first_stage_model.encoder."),
}
T5_PREFIXES = ("text_encoders.t5xxl.transformer.", "t5xxl.transformer.")


def parts(tensors: LazyTensors) -> Parts:
    """The parts in a file, or nothing when the layout is another."""
    found: Parts = {}
    for part, prefixes in PREFIXES.items():
        for prefix in prefixes:
            entries = under(prefix, tensors)
            if network_of(entries) == part:
                found[part] = entries
                break
    for prefix in T5_PREFIXES:
        if entries := t5.encoder_of(under(prefix, tensors)):
            found["t5"] = entries
            break
    return found
