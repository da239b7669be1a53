"""How long a video takes beside others, from its settings."""

import math

from ..config import PREVIEW
from ..geometry import PATCH, latent_shape
from ..settings import GenerateSettings

DECODING = 1.6e7
"""Floating-point operations that decoding takes for a pixel of a frame."""


def cost(settings: GenerateSettings) -> float:
    """Floating-point operations of the published model, about: of its larger products alone."""
    dit = PREVIEW.dit
    tokens = math.prod(latent_shape(settings.width, settings.height, settings.frames)[2:]) // PATCH**2
    # Two for each weight of qkv, projection and MLP; queries by keys and scores by values, of each token with each.
    linear = 2 * tokens * (4 * dit.hidden_x**2 + 3 * dit.hidden_x * dit.mlp_x)
    attention = 4 * tokens * (tokens + dit.text_length) * dit.hidden_x
    decoding = DECODING * settings.frames * settings.width * settings.height
    return settings.steps * settings.passes * dit.depth * (linear + attention) + decoding
