"""From weight files to networks: a checkpoint is opened once, planned, and filled. See docs/architecture.md."""

from .checkpoint import Checkpoint, Source
from .load import load_decoder, load_dit, load_encoder
from .networks import dit_shapes
from .plan import Plan, assign, fill

__all__ = ["Checkpoint", "Plan", "Source", "assign", "dit_shapes", "fill", "load_decoder", "load_dit", "load_encoder"]
