"""The videos of one run: from options or from a file with a JSON object of settings a line."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..batch.job import Job
from ..batch.record import Recipe, remaining
from ..config import RunDefaults
from ..errors import MochiError
from ..settings import GenerateSettings
from ..text.characters import HALF
from ..video import format_of
from .published import in_our_names

Chosen = Mapping[str, Any]
"""Settings by name; None stands for the model's default."""

Check = Callable[[Job], None]
"""Raises MochiError on a job that cannot be made."""


def read_jsonl(
    path: Path,
    chosen: Chosen,
    defaults: RunDefaults,
    output: Path | None = None,
    check: Check = Job.check_output,
) -> tuple[list[Job], dict[int, MochiError]]:
    """The jobs of a file, one for each line that can be made, and what is wrong with the others, by their numbers.

    Settings that a line leaves out come from `chosen`. A line without an output gets `output` with its number, by
    default a name beside the file. No result replaces another of this run, or the file itself.

    Raises MochiError when the file cannot be read, or there is nothing in it.
    """
    output = output or path.with_suffix(".mp4")
    jobs, wrong = read_lines(_lines(path), chosen, defaults, output, check, taken=(path,))
    if not jobs and not wrong:
        raise MochiError(f"{path}: there is nothing in it")
    return jobs, wrong


def read_lines(
    lines: Iterable[tuple[int, str]],
    chosen: Chosen,
    defaults: RunDefaults,
    output: Path,
    check: Check = Job.check_output,
    taken: Iterable[Path] = (),
) -> tuple[list[Job], dict[int, MochiError]]:
    """The same of lines with their numbers. taken: files that no result may replace."""
    format_of(output)
    jobs: list[Job] = []
    wrong: dict[int, MochiError] = {}
    replaced = set(map(os.path.realpath, taken))
    for number, line in lines:
        try:
            job = _job(number, line, chosen, defaults, output.with_stem(f"{output.stem}_{number:04}"))
            check(job)
            results = {os.path.realpath(job.video), os.path.realpath(job.record)}
            if results & replaced:
                raise MochiError(f"{min(results & replaced)}: this run would write over it; choose another output")
        except MochiError as error:
            wrong[number] = error
        else:
            replaced |= results
            jobs.append(job)
    return jobs, wrong


def sift(jobs: Iterable[Job], *checks: Check) -> tuple[list[Job], dict[int, MochiError]]:
    """The jobs that all checks let pass, and what is wrong with the others, by their lines.

    Raises MochiError for a job that is no line of a file.
    """
    fit, wrong = [], {}
    for job in jobs:
        try:
            for check in checks:
                check(job)
        except MochiError as error:
            if job.line is None:
                raise
            wrong[job.line] = error
        else:
            fit.append(job)
    return fit, wrong


def missing(jobs: Iterable[Job], recipe: Recipe) -> tuple[list[Job], dict[int, MochiError]]:
    """The jobs whose videos are not there yet, and what is wrong with the outputs of others, by their lines.

    For jobs that were read without a check: frames in a folder are an error, unless they are what is asked for.
    """
    return sift(remaining(jobs, recipe), Job.check_output)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers.

    UTF-8, 16 or 32, with or without a byte order mark, as editors and shells write them. A byte that is not UTF-8
    becomes half of a character, and so it spoils its line only.
    """
    try:
        data = path.read_bytes()
        encoding = json.detect_encoding(data)
        text = data.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass")
    except (OSError, ValueError) as error:
        raise MochiError(f"{path}: cannot be read ({error})") from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _job(number: int, line: str, chosen: Chosen, defaults: RunDefaults, output: Path) -> Job:
    if half := HALF.search(line):
        raise MochiError(f"character {half.start() + 1} is not UTF-8 ({half[0]!r}); save the file in that encoding")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MochiError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MochiError("not a JSON object with settings")
    values.pop("run", None)  # in a record: how the video was made
    name = values.pop("output", None) or str(output)
    if not isinstance(name, str):
        raise MochiError(f"output is {name!r}, but must be a file name")
    values = in_our_names(values, [field.name for field in fields(GenerateSettings)])
    given = {key: value for key, value in values.items() if value is not None}
    given = {**chosen, **given}
    return Job(GenerateSettings.of(defaults, **given), Path(name), number, seed_drawn=given.get("seed") is None)
