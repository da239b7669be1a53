"""From a prompt to frames, on one device or over several."""

from ..settings import GenerateSettings
from .load import load_pipeline
from .pipeline import Pipeline, noise_from_seed

__all__ = ["GenerateSettings", "Pipeline", "load_pipeline", "noise_from_seed"]
