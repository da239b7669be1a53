"""AsymmDiT, the denoiser: two token streams of different width that share one attention."""

from .model import AsymmDiT, TextContext
from .rotary import RotaryTable

__all__ = ["AsymmDiT", "RotaryTable", "TextContext"]
