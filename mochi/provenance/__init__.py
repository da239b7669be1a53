"""Content credentials (C2PA): who made a video, with what. Signed into its file, and read back."""

from .library import NotInstalled
from .reader import Credentials, read_credentials
from .signer import SIGNED, Signer

__all__ = ["SIGNED", "Credentials", "NotInstalled", "Signer", "read_credentials"]
