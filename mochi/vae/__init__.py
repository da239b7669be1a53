"""AsymmVAE: frames to latents and back, 8x8 in space and 6x in time, causal in time."""

from .decoder import Decoder
from .encoder import Encoder, Posterior
from .latents import to_dit, to_vae
from .stream import Borders, Stream

__all__ = ["Borders", "Decoder", "Encoder", "Posterior", "Stream", "to_dit", "to_vae"]
