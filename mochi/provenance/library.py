"""The library that reads and writes credentials, which is optional, and how it is used here: without a network."""

import importlib
import re
from typing import Any

from ..errors import MochiError

USAGES = {
    "1.3.6.1.5.5.7.3.4": "email protection",
    "1.3.6.1.5.5.7.3.36": "document signing",
    "1.3.6.1.4.1.62558.2.1": "C2PA claim signing",
}
"""What a certificate must be for, by the numbers that certificates have: one of these."""

SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
    "trust": {"trust_config": "\n".join(USAGES)},
}


OLDEST, OLDEST_CRYPTOGRAPHY = (0, 37, 5), 42
INSTALL = "pip install 'c2pa-python>=0.37.5' 'cryptography>=42'"


class NotInstalled(MochiError):
    """The library is not there."""


def import_c2pa() -> Any:
    """Raises NotInstalled where it is not there or too old."""
    try:
        c2pa = importlib.import_module("c2pa")
        cryptography = importlib.import_module("cryptography")
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # its compiled part does not load on this system
        raise NotInstalled(
            f"Content credentials need c2pa-python, which cannot be used here ({error}): {INSTALL}"
        ) from error
    if tuple(map(int, re.findall(r"\d+", c2pa.__version__)[:3])) < OLDEST:
        raise NotInstalled(f"Content credentials need a newer c2pa-python than {c2pa.__version__}: {INSTALL}")
    if int(cryptography.__version__.partition(".")[0]) < OLDEST_CRYPTOGRAPHY:
        raise NotInstalled(f"Content credentials need a newer cryptography than {cryptography.__version__}: {INSTALL}")
    return c2pa


def context() -> Any:
    """What every use of the library gets."""
    return import_c2pa().Context.from_dict(SETTINGS)
