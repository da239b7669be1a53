"""Every published file layout becomes one state dict, under the published names."""

from .load import load_decoder, load_dit, load_encoder

__all__ = ["load_decoder", "load_dit", "load_encoder"]
