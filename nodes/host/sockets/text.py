"""CONDITIONING from ours or any other T5 on a CLIP socket."""

import logging
from typing import Any

import torch

from ....mochi.config import PREVIEW
from ....mochi.errors import MochiError
from ....mochi.text.characters import check_text

log = logging.getLogger(__name__)

LENGTH = PREVIEW.dit.text_length
T5_END = 1

PROMPT = "mochi_prompt"
"""Where a CONDITIONING has its text, for Mochi Safety. Nothing else looks at it."""


def encode_prompt(clip: Any, prompt: str) -> list:
    """CONDITIONING as Mochi was trained: literal text, at most 256 tokens, and no token at all for an empty prompt.

    ComfyUI's own T5 would give weight to parentheses, read on beyond 256 tokens, and see one token in an
    empty prompt. Raises MochiError when the prompt is not Unicode, or the CLIP is not a T5 with an attention mask.
    """
    check_text("prompt", prompt)
    tokens = clip.tokenize(prompt, disable_weights=True)
    tokens = {name: [_cut(row) for row in rows] for name, rows in tokens.items()}
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    for _, extra in conditioning:
        mask = extra.get("attention_mask")
        if mask is None:
            raise MochiError(
                "This CLIP gives no attention mask, so it is not a text encoder for Mochi. Use Load T5 (Mochi), or "
                "the built-in Load CLIP with type mochi."
            )
        if not prompt.strip():
            extra["attention_mask"] = torch.zeros_like(mask)
        extra[PROMPT] = prompt
    return conditioning


def prompts_of(conditioning: list) -> list[str]:
    """The texts that a CONDITIONING was made from. Raises MochiError where `encode_prompt` has not made all of it."""
    prompts = [extra.get(PROMPT) for _, extra in conditioning]
    if None in prompts:
        raise MochiError(
            "conditioning does not say which text it was made from: make it with Mochi Text Encode, or link the text "
            "itself to `text`."
        )
    return prompts


def _cut(row: list[tuple]) -> list[tuple]:
    """At most 256 tokens, the last one being the end of the text."""
    lost = len(row) - LENGTH
    if lost <= 0:
        return row
    log.warning(
        "The prompt is %d tokens long, but the model reads %d: the last %d were cut off.", len(row), LENGTH, lost
    )
    return [*row[: LENGTH - 1], (T5_END, *row[LENGTH - 1][1:])]
