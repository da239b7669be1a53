"""T5 v1.1 prompt encoding: the encoder of transformers, filled from whichever files there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checkpoint import Source, fill
from ..errors import CheckpointError
from ..quant import FLOAT8
from .layout import find_tokenizer, open_text_encoder
from .tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class PromptEncoder:
    """Prompts to T5 features, as Mochi reads them.

    Attributes:
        model: the T5EncoderModel, which a host may move between devices.
        tokenizer: makes its token ids of text.
        width: the size of a feature vector, 4096 for the published model.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: PromptTokenizer):
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
    source: Source,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    length: int = 256,
    compute: torch.dtype | None = None,
    operations: Any = nn,
) -> PromptEncoder:
    """A prompt encoder from files on this machine. The weights are memory-mapped and cast one by one.

    Args:
        source: a Hugging Face folder (config.json, weights in one or more safetensors files), a diffusers folder
            (`text_encoder/` beside `tokenizer/`), or a single file such as ComfyUI's t5xxl_fp16.safetensors; or what
            `open_text_encoder` made of one.
        tokenizer: its folder or file, where it does not lie in, below or beside the text encoder's folder.
        dtype: of the weights; a float8 dtype quantises those of Linear layers. By default quantised weights stay so,
            and all others are in `compute`.
        length: of a prompt in tokens; longer ones are cut.
        compute: by default float32 on the CPU, bfloat16 elsewhere.
        operations: whose Linear and Embedding the model is made of.

    Raises CheckpointError, naming the file and what to do.
    """
    checkpoint, device = open_text_encoder(source), torch.device(device)
    default = torch.float32 if device.type == "cpu" else torch.bfloat16
    kept = (None if dtype in FLOAT8 else dtype) or compute or default
    plan = checkpoint.plan("t5", None, dtype, kept, operations)
    prompt_tokenizer = PromptTokenizer(tokenizer or find_tokenizer(checkpoint.path), length)
    known = plan.model.config.vocab_size
    if prompt_tokenizer.vocab_size > known:
        raise CheckpointError(
            f"{checkpoint.path}: an encoder of {known} tokens, but {prompt_tokenizer.source} knows "
            f"{prompt_tokenizer.vocab_size}: they do not belong together"
        )
    return PromptEncoder(fill(plan, device), prompt_tokenizer)
