"""AsymmDiT, the denoiser: two token streams of different width that share one attention."""

from .model import AsymmDiT, TextContext
from .runner import PLAIN, BlockRunner

__all__ = ["PLAIN", "AsymmDiT", "BlockRunner", "TextContext"]
