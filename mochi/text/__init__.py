"""Prompts to T5 features: the tokenizer, the encoder and the file layouts that they come in."""

from .layout import is_t5, open_text_encoder
from .t5 import PromptEncoder, load_prompt_encoder
from .tokenizer import PromptTokenizer, TokenizedPrompt

__all__ = [
    "PromptEncoder",
    "PromptTokenizer",
    "TokenizedPrompt",
    "is_t5",
    "load_prompt_encoder",
    "open_text_encoder",
]
