"""`--safety WHAT` of the command line, and the prompts that it lets through."""

import argparse
from collections.abc import Sequence

from ..batch.job import Job
from ..errors import MochiError
from ..safety import SafetySettings, logged


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option, which can be repeated."""
    about = "What is blocked is written down in blocked.jsonl, beside the video. See docs/safety.md."
    parser.add_argument_group("safety", about).add_argument(
        "--safety",
        action="append",
        default=[],
        metavar="WHAT",
        help="check prompts before they are used, and frames before they are written; can be given several times: a "
        "list of words (.txt), the folder or owner/name of an image classifier, settings (.json), or an installed "
        "check (default: nothing is checked)",
    )


def chosen(options: argparse.Namespace) -> SafetySettings | None:
    """What is to be checked; None where nothing is. Raises MochiError on what cannot be."""
    return SafetySettings.of(options.safety) if options.safety else None


def let_through(jobs: Sequence[Job], checks: SafetySettings | None) -> tuple[list[Job], dict[int, MochiError]]:
    """The jobs whose prompts are not blocked, and what is wrong with the others, by their lines.

    Raises MochiError for a job that is no line of a file.
    """
    if checks is None:
        return list(jobs), {}
    guard, passed, wrong = checks.guard_of_prompts(), [], {}
    for job in jobs:
        try:
            with logged(checks.log, job.output):
                guard.check_prompt(job.settings.prompt, job.settings.as_dict())
        except MochiError as error:
            if job.line is None:
                raise
            wrong[job.line] = error
        else:
            passed.append(job)
    return passed, wrong
