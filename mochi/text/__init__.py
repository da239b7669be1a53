"""Prompts to T5 features: the tokenizer, the encoder and the file layouts that they come in."""

from __future__ import annotations

from .t5 import PromptEncoder, check_encoder, load_prompt_encoder
from .tokenizer import PromptTokenizer, TokenizedPrompt

__all__ = ["PromptEncoder", "PromptTokenizer", "TokenizedPrompt", "check_encoder", "load_prompt_encoder"]
