"""CONDITIONING from ours or any other T5 on a CLIP socket."""

import logging
import math
from typing import Any

import torch

from ....mochi.config import PREVIEW
from ....mochi.errors import MochiError
from ....mochi.text.characters import check_text

log = logging.getLogger(__name__)

LENGTH = PREVIEW.dit.text_length
T5_END = 1

PROMPT = "mochi_prompt"
"""Where a CONDITIONING has its text and a mark of what was made of it, for Mochi Safety alone."""


class SourceText(str):
    """What features were made of, and their mark. A text, since the host's own nodes look into other objects."""

    mark: float

    def __new__(cls, text: str, mark: float) -> "SourceText":
        made = super().__new__(cls, text)
        made.mark = mark
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceText, (str(self), self.mark)


def encode_prompt(clip: Any, prompt: str) -> list:
    """CONDITIONING as Mochi was trained: literal text, at most 256 tokens, and no token at all for an empty prompt.

    ComfyUI's own T5 would give weight to parentheses, read on beyond 256 tokens, and see one token in an
    empty prompt. Raises MochiError when the prompt is not Unicode, or the CLIP is not a T5 with an attention mask.
    """
    check_text("prompt", prompt)
    tokens = clip.tokenize(prompt, disable_weights=True)
    tokens = {name: [_cut(row) for row in rows] for name, rows in tokens.items()}
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    for features, extra in conditioning:
        mask = extra.get("attention_mask")
        if mask is None:
            raise MochiError(
                "This CLIP gives no attention mask, so it is not a text encoder for Mochi. Use Load T5 (Mochi), or "
                "the built-in Load CLIP with type mochi."
            )
        if not prompt.strip():
            extra["attention_mask"] = torch.zeros_like(mask)
        extra[PROMPT] = SourceText(prompt, _mark(features))
    return conditioning


def prompts_of(conditioning: list) -> list[str]:
    """The texts that a CONDITIONING was made from. Raises MochiError where `encode_prompt` has not made all of it."""
    prompts = []
    for features, extra in conditioning:
        prompt = extra.get(PROMPT)
        if not isinstance(prompt, SourceText) or not math.isclose(prompt.mark, _mark(features), rel_tol=1e-5):
            raise MochiError(
                "conditioning does not say which text it was made from, or was changed since: take it from Mochi Text "
                "Encode itself, or link the text to `text`."
            )
        prompts.append(prompt)
    return prompts


def _mark(features: torch.Tensor) -> float:
    """A number that other features have not: nodes that mix two prompts keep the words of one."""
    flat = features.detach().float().flatten()
    places = torch.linspace(1, 2, len(flat), device=flat.device)
    return float((flat * places).abs().mean())


def _cut(row: list[tuple]) -> list[tuple]:
    """At most 256 tokens, the last one being the end of the text."""
    lost = len(row) - LENGTH
    if lost <= 0:
        return row
    log.warning(
        "The prompt is %d tokens long, but the model reads %d: the last %d were cut off.", len(row), LENGTH, lost
    )
    return [*row[: LENGTH - 1], (T5_END, *row[LENGTH - 1][1:])]
