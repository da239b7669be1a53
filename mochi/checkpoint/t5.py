"""T5 v1.1 encoders: their sizes, and the module of transformers without weights. Imported where a T5 is used."""

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers  # it imports its classes when they are first used
from torch import nn

from ..errors import CheckpointError
from .layouts.t5 import BLOCK, EMBEDDING, QUERY
from .lazy import LazyTensors

BIAS = f"{BLOCK}0.SelfAttention.relative_attention_bias.weight"


def read_config(path: Path) -> transformers.T5Config:
    """The configuration in a folder's config.json; raises CheckpointError unless it is T5's."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type")
        if kind == "t5":
            return _config(values)
    except Exception as error:  # the library raises errors of its own for impossible values
        raise CheckpointError(f"{path}: not a readable model configuration ({error})") from error
    raise CheckpointError(f"{path}: describes a model of type {kind!r}, but Mochi's text encoder is of type 't5'")


def infer_config(entries: LazyTensors) -> transformers.T5Config:
    """The configuration that follows from the shapes of an encoder's tensors. Raises KeyError on one that is missing,
    ValueError or ZeroDivisionError on shapes that cannot be."""
    gated = f"{BLOCK}1.DenseReluDense.wi.weight" not in entries
    vocabulary, width = entries[EMBEDDING].shape
    buckets, heads = entries[BIAS].shape
    values = {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": entries[QUERY].shape[0] // heads,
        "d_ff": entries[f"{BLOCK}1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"].shape[0],
        "num_layers": len({m[1] for name in entries if (m := re.match(r"encoder\.block\.(\d+)\.", name))}),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }
    return _config(values)


def _config(values: dict[str, Any]) -> transformers.T5Config:
    return transformers.T5Config(**{**values, "attn_implementation": "eager"})


def empty_encoder(config: transformers.T5Config, dtype: torch.dtype, operations: Any = nn) -> nn.Module:
    """The encoder on the meta device. Its two embeddings are one module.

    operations: its Linear and Embedding take the place of torch's.
    """
    with torch.device("meta"):
        model = transformers.T5EncoderModel(config)
    nn.Module.to(model, dtype)
    model.set_input_embeddings(model.shared)
    if dtype == torch.float16:  # the output projections of the MLPs overflow in it
        for name, module in model.named_modules():
            if name.endswith(".wo"):
                module.float()
    if operations is not nn:
        _replace_layers(model, operations)
    return model


def _replace_layers(model: nn.Module, operations: Any) -> None:
    made: dict[nn.Module, nn.Module] = {}  # a layer that is used in two places stays one
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if layer not in made and type(layer) is nn.Linear:
                size, bias = (layer.in_features, layer.out_features), layer.bias is not None
                made[layer] = operations.Linear(*size, bias, device="meta", dtype=layer.weight.dtype)
            elif layer not in made and type(layer) is nn.Embedding:
                size = layer.num_embeddings, layer.embedding_dim
                made[layer] = operations.Embedding(*size, device="meta", dtype=layer.weight.dtype)
            if layer in made:
                setattr(parent, name, made[layer])
