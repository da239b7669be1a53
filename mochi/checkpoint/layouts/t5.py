"""T5 encoders: under the names of transformers, which ComfyUI's files have too, or those of llama.cpp."""

import re

from ..lazy import LazyTensors
from .genmo import Parts

BLOCK = "encoder.block.0.layer."
QUERY = f"{BLOCK}0.SelfAttention.q.weight"
EMBEDDING, TIED = "shared.weight", "encoder.embed_tokens.weight"
IGNORED = ("decoder.", "lm_head.", "dec.", "spiece_model", "logit_scale")
"""Tensors of the other half of T5, of ComfyUI and of converters. A prompt encoder has no use for them."""

# Source: gguf's constants for T5ENCODER.
LLAMA = {
    r"token_embd\.": "shared.",
    r"enc\.output_norm\.": "encoder.final_layer_norm.",
    r"enc\.blk\.(\d+)\.attn_norm\.": r"encoder.block.\1.layer.0.layer_norm.",
    r"enc\.blk\.(\d+)\.attn_([qkvo])\.": r"encoder.block.\1.layer.0.SelfAttention.\2.",
    r"enc\.blk\.(\d+)\.attn_rel_b\.": r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    r"enc\.blk\.(\d+)\.ffn_norm\.": r"encoder.block.\1.layer.1.layer_norm.",
    r"enc\.blk\.(\d+)\.ffn_gate\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_0.",
    r"enc\.blk\.(\d+)\.ffn_up\.": r"encoder.block.\1.layer.1.DenseReluDense.wi_1.",
    r"enc\.blk\.(\d+)\.ffn_down\.": r"encoder.block.\1.layer.1.DenseReluDense.wo.",
}


def parts(tensors: LazyTensors) -> Parts:
    """The encoder in a file, or nothing when the layout is another."""
    entries = encoder_of(tensors) or encoder_of({transformers_name(n): tensor for n, tensor in tensors.items()})
    return {"t5": entries} if entries else {}


def encoder_of(entries: LazyTensors) -> LazyTensors:
    """The encoder's tensors among those under transformers' names; none when it is not there."""
    if QUERY not in entries:
        return {}
    found = {name: entry for name, entry in entries.items() if not name.startswith(IGNORED)}
    tied = found.pop(TIED, None)
    if tied is not None:
        found.setdefault(EMBEDDING, tied)
    return found


def transformers_name(name: str) -> str:
    """The name in transformers of a tensor of llama.cpp; any other name as it is."""
    for theirs, ours in LLAMA.items():
        renamed, count = re.subn(f"^{theirs}", ours, name)
        if count:
            return renamed
    return name
