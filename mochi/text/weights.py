"""The tensors of a T5 encoder in weight files, found and checked without reading them."""

from __future__ import annotations

import re
from pathlib import Path

import transformers

from ..checkpoint.file import LazyTensors, first_few, open_weights
from ..checkpoint.identify import parts_of, seems_to_be
from ..checkpoint.layouts.t5 import BLOCK, EMBEDDING, QUERY
from ..errors import CheckpointError

BIAS = f"{BLOCK}0.SelfAttention.relative_attention_bias.weight"


def t5_entries(weights: Path, name: Path) -> LazyTensors:
    """The encoder's tensors in a file, or behind an index of several, under the names that transformers uses.

    What a prompt encoder has no use for (the decoder) is left out. Raises CheckpointError, which speaks
    of `name`, when this is no T5.
    """
    file = open_weights(weights)
    found = parts_of(file).get("t5")
    if found is None:
        raise CheckpointError(
            f"{name}: not a T5 text encoder; it seems to be {seems_to_be(file)} "
            f"(its tensors: {first_few(file.entries)}); choose t5xxl_fp16.safetensors or a google/t5-v1_1-xxl folder"
        )
    return found


def infer_config(entries: LazyTensors, name: Path) -> transformers.T5Config:
    """The configuration that follows from a T5 encoder's tensor shapes."""
    gated = f"{BLOCK}1.DenseReluDense.wi.weight" not in entries
    try:
        vocabulary, width = entries[EMBEDDING].shape
        buckets, heads = entries[BIAS].shape
        inner = entries[QUERY].shape[0]
        hidden = entries[f"{BLOCK}1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"].shape[0]
        width_of_head = inner // heads
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name}: a T5 encoder with tensors missing or misshapen: {error}") from error
    return transformers.T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width_of_head,
        d_ff=hidden,
        num_layers=len({m[1] for key in entries if (m := re.match(r"encoder\.block\.(\d+)\.", key))}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
        attn_implementation="eager",
    )
