"""What stands between a prompt and a sampler, and between frames and the disk, where somebody asks for it."""

from .guard import Finding, Guard, Safety, guarded
from .log import logged
from .settings import SafetySettings

__all__ = ["Finding", "Guard", "Safety", "SafetySettings", "guarded", "logged"]
