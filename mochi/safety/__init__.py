"""What stands between a prompt and a sampler, and between frames and the disk, where somebody asks for it."""

from .guard import Finding, Guard, Safety, guarded

__all__ = ["Finding", "Guard", "Safety", "guarded"]
