"""`--sign FILE` of the command line: content credentials."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..batch.job import Job
from ..errors import MochiError
from ..provenance import Signer
from ..provenance.signer import VARIABLE
from ..video import format_of


def add_option(add: Callable[..., Any]) -> None:
    add(
        "--sign",
        type=Path,
        metavar="FILE",
        help="sign videos with the private key and the certificates in a PEM file: content credentials (C2PA) that say "
        f"what made them, see docs/credentials.md (default: the file that {VARIABLE} names, if it is set)",
    )


def fitting(jobs: Sequence[Job], signer: Signer | None) -> tuple[list[Job], dict[int, MochiError]]:
    """The jobs whose format can be signed, and what is wrong with the others, by their lines; all without a signer.

    Raises MochiError for a job that is no line of a file.
    """
    fit, wrong = [], {}
    for job in jobs:
        try:
            if signer is not None:
                signer.check(format_of(job.output))
        except MochiError as error:
            if job.line is None:
                raise
            wrong[job.line] = error
        else:
            fit.append(job)
    return fit, wrong
