"""`--sign FILE` of the command line: content credentials."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..batch.job import Job
from ..provenance import Signer
from ..provenance.signer import VARIABLE
from ..video import format_of
from .jobs import Check


def add_option(add: Callable[..., Any]) -> None:
    add(
        "--sign",
        type=Path,
        metavar="FILE",
        help="sign videos with the private key and the certificates in a PEM file: content credentials (C2PA) that say "
        f"what made them, see docs/credentials.md (default: the file that {VARIABLE} names, if it is set)",
    )


def check_of(signer: Signer | None) -> Check:
    """A check whether the format of a job can be signed; any can without a signer."""

    def check(job: Job) -> None:
        if signer is not None:
            signer.check(format_of(job.output))

    return check
