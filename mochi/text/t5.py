"""T5 v1.1 prompt encoding: the encoder of transformers, filled from whichever files there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers  # whose classes are imported when they are first used, which takes half a second
from torch import Tensor, nn

from ..checkpoint.check import check_numbers, check_tensors
from ..checkpoint.file import LazyTensors
from ..checkpoint.load import find_scales, pack, values_for
from ..errors import CheckpointError
from ..quant import FLOAT8, QUANT_DTYPE, QuantLinear
from .layout import find_text_encoder, find_tokenizer
from .tokenizer import PromptTokenizer
from .weights import infer_config, t5_entries


class PromptEncoder:
    """Prompts to T5 features, as Mochi reads them.

    model: the T5EncoderModel, which a host may move between devices. tokenizer: the PromptTokenizer.
    width: of a feature vector (4096 for the published model).
    """

    def __init__(self, model: transformers.T5EncoderModel, tokenizer: PromptTokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width: int = model.config.d_model

    def __call__(self, prompts: str | Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B, L, width) float32 and mask (B, L) bool of B prompts, on the model's device."""
        texts = [prompts] if isinstance(prompts, str) else prompts
        tokens = [self.tokenizer(text) for text in texts]
        device = self.model.get_input_embeddings().weight.device
        ids = torch.stack([t.ids for t in tokens]).to(device)
        mask = torch.stack([t.mask for t in tokens]).to(device)
        return self.encode(ids, mask), mask

    @torch.no_grad()
    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, L) and mask (B, L) bool -> the last hidden state (B, L, width), float32."""
        features = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        # Nothing is attended to in an empty prompt: float16 may make that NaN, which even a mask of zeros lets through.
        return torch.where(mask.any(1)[:, None, None], features, features.nan_to_num())


def load_prompt_encoder(
    path: str | Path,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    length: int = 256,
    compute: torch.dtype | None = None,
    operations: Any = nn,
) -> PromptEncoder:
    """A prompt encoder from files on this machine.

    path: a Hugging Face folder (config.json, weights in one or more safetensors files), a diffusers folder
    (`text_encoder/` beside `tokenizer/`), or a single file such as ComfyUI's t5xxl_fp16.safetensors.
    tokenizer: its folder or file, where it does not lie in, below or beside the text encoder's folder.
    dtype: of the weights; a float8 dtype packs those of Linear layers so. By default packed weights stay packed, and
    all others are in `compute`.
    compute: by default float32 on the CPU, bfloat16 elsewhere.

    The weights are memory-mapped and cast one by one. Raises CheckpointError, naming the file and what to do.
    """
    path, device = Path(path), torch.device(device)
    folder, config_file, weights = find_text_encoder(path)
    model, entries = check_encoder(weights, path, config_file)
    config = model.config
    prompt_tokenizer = PromptTokenizer(tokenizer or find_tokenizer(path, folder), length)
    if prompt_tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path}: an encoder of {config.vocab_size} tokens, but {prompt_tokenizer.source} "
            f"knows {prompt_tokenizer.vocab_size}: they do not belong together"
        )
    entries = pack(model, entries, dtype, operations)
    check_numbers(path, entries)
    find_scales(model, entries)
    plain = (None if dtype in FLOAT8 else dtype) or compute
    fill(model, entries, plain or (torch.float32 if device.type == "cpu" else torch.bfloat16), device)
    return PromptEncoder(model, prompt_tokenizer)


def check_encoder(
    weights: Path, name: Path, config_file: Path | None = None
) -> tuple[transformers.T5EncoderModel, LazyTensors]:
    """The model of a weight file without its weights, and where these are, all of them and no others.

    Raises CheckpointError, which speaks of `name`, on anything but a whole T5 encoder. Reads no weights.
    """
    entries = t5_entries(weights, name)
    config = read_config(config_file) if config_file else infer_config(entries, name)
    try:
        model = empty_model(config)
    except (RuntimeError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(f"{config_file or name}: a T5 of sizes that cannot be ({error})") from error
    check_tensors(name, "T5 encoder", entries, dict(model.named_parameters()))
    return model, entries


def read_config(path: Path) -> transformers.T5Config:
    """The configuration in a folder's config.json; raises CheckpointError unless it is T5's."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable model configuration ({error})") from error
    if kind != "t5":
        raise CheckpointError(f"{path}: describes a model of type {kind!r}, but Mochi's text encoder is of type 't5'")
    try:
        return transformers.T5Config(**{**values, "attn_implementation": "eager"})
    except Exception as error:  # the library has its own kinds for values that cannot be
        raise CheckpointError(f"{path}: a T5 of sizes that cannot be ({error})") from error


def empty_model(config: transformers.T5Config) -> transformers.T5EncoderModel:
    """The model without memory for its weights; its two embeddings are one module."""
    with torch.device("meta"):
        model = transformers.T5EncoderModel(config)
    model.set_input_embeddings(model.shared)
    return model


def fill(model: transformers.T5EncoderModel, entries: LazyTensors, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter its stored values, in `dtype` on `device`, or the bytes of those that are packed."""
    for name, entry in entries.items():
        # The MLPs' output projections overflow in float16; T5 then keeps them in float32.
        wide = dtype == torch.float16 and name.endswith(".wo.weight")
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        kept = torch.float32 if wide else dtype
        if isinstance(module, QuantLinear) and leaf == "weight":
            module.compute, kept = torch.float32 if wide else None, QUANT_DTYPE
        values = values_for(kept, entry).to(device)
        setattr(module, leaf, nn.Parameter(values, requires_grad=False))
