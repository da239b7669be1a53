"""Clips and captions to examples: found, read, cut into windows, encoded once and kept in a cache."""

from .dataset import Example, TrainingSet
from .items import Unusable
from .prepare import prepare
from .settings import DataSettings
from .sheet import contact_sheet

__all__ = ["DataSettings", "Example", "TrainingSet", "Unusable", "contact_sheet", "prepare"]
