"""`--safety WHAT` of the command line, and the check of prompts."""

import argparse

from ..batch.job import Job
from ..safety import SafetySettings, logged
from .jobs import Check


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


def check_of(checks: SafetySettings | None) -> Check:
    """A check of prompts, which writes down what it blocks; without settings nothing is."""
    guard = None if checks is None else checks.guard_of_prompts()

    def check(job: Job) -> None:
        if guard is not None:
            with logged(guard.log, job.output):
                guard.check_prompt(job.settings.prompt, job.settings.as_dict())

    return check
