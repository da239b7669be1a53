"""Content credentials (C2PA): who made a video, with what."""

from .signer import Signer

__all__ = ["Signer"]
