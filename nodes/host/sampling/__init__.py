"""Runs: our loops inside ComfyUI's sampling machinery, and what goes around a run."""
