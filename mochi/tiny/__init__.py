"""The built-in tiny model: its weights, the clips that it learns from, and the programs that train and judge it."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Model directory of the built-in model, in the published layout (dit, decoder, encoder, t5/)."""
