"""The tensors of a T5 encoder in safetensors files, found and checked without reading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transformers import T5Config

from ..checkpoint.check import check_not_quantised
from ..checkpoint.file import Entry, WeightFile, first_few
from ..checkpoint.identify import seems_to_be
from ..errors import CheckpointError

Entries = dict[str, Entry]

# In front of the names in a checkpoint that holds text encoder, diffusion model and VAE.
PREFIXES = ("", "text_encoders.t5xxl.transformer.")
BLOCK = "encoder.block.0.layer."
QUERY, BIAS = f"{BLOCK}0.SelfAttention.q.weight", f"{BLOCK}0.SelfAttention.relative_attention_bias.weight"
EMBEDDING, TIED = "shared.weight", "encoder.embed_tokens.weight"


def t5_entries(paths: Sequence[Path], name: Path) -> Entries:
    """The encoder's tensors in the files `paths`, under the names that transformers uses.

    What a prompt encoder has no use for (the decoder) is left out. Raises CheckpointError, which speaks
    of `name`, when this is no T5 or its weights are quantised.
    """
    files = [WeightFile(path) for path in paths]
    stored = {key: entry for file in files for key, entry in file.entries.items()}
    prefix = next((p for p in PREFIXES if p + QUERY in stored), None)
    if prefix is None:
        raise CheckpointError(
            f"{name}: not a T5 text encoder; it seems to be {seems_to_be(files[0])} "
            f"(its tensors: {first_few(stored)}); choose t5xxl_fp16.safetensors or a google/t5-v1_1-xxl folder"
        )
    found = {key.removeprefix(prefix): entry for key, entry in stored.items() if key.startswith(prefix)}
    if TIED in found:
        tied = found.pop(TIED)
        found.setdefault(EMBEDDING, tied)
    found = {key: entry for key, entry in found.items() if not key.startswith(("decoder.", "lm_head."))}
    check_not_quantised(name, found, "t5xxl_fp16.safetensors or t5xxl_fp8_e4m3fn.safetensors")
    return found


def infer_config(entries: Entries, name: Path) -> T5Config:
    """The configuration that follows from a T5 encoder's tensor shapes."""
    gated = f"{BLOCK}1.DenseReluDense.wi_0.weight" in entries
    try:
        vocabulary, width = entries[EMBEDDING].shape
        buckets, heads = entries[BIAS].shape
        inner = entries[QUERY].shape[0]
        hidden = entries[f"{BLOCK}1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{name}: a T5 encoder with tensors missing or misshapen: {error}") from error
    return T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=hidden,
        num_layers=len({m[1] for key in entries if (m := re.match(r"encoder\.block\.(\d+)\.", key))}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
        attn_implementation="eager",
    )
