"""Mochi 1: the model, its checkpoints and its sampler. Knows nothing of ComfyUI."""

__version__ = "0.1.0"
