"""The videos of one run: from options or from a file with a JSON object of settings a line."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunDefaults
from ..errors import MochiError
from ..settings import GenerateSettings
from ..video import check_writable, format_of, target_path

Chosen = Mapping[str, Any]
"""Settings by name; None stands for the model's default."""


@dataclass(frozen=True)
class Job:
    """One video to make: its settings, and the file name that picks its format."""

    settings: GenerateSettings
    output: Path

    @property
    def video(self) -> Path:
        """The file or, for PNG, the folder."""
        return target_path(self.output, format_of(self.output))

    @property
    def record(self) -> Path:
        """Where the settings are written: beside the video."""
        return self.video.with_suffix(".json")


def read_jsonl(path: Path, chosen: Chosen, defaults: RunDefaults, output: Path) -> list[Job]:
    """One job for each line.

    Settings that a line leaves out come from `chosen`. A line without an output gets `output` with its number.

    Raises MochiError naming the line, on the first that is wrong.
    """
    jobs = []
    for number, line in _lines(path):
        try:
            jobs.append(_job(line, chosen, defaults, output.with_stem(f"{output.stem}_{number:04}")))
        except MochiError as error:
            raise MochiError(f"{path}, line {number}: {error}") from error
    if not jobs:
        raise MochiError(f"{path}: there is nothing in it")
    return jobs


def check_outputs(jobs: Collection[Job], *kept: Path) -> None:
    """Raise MochiError if a result cannot be written, or would replace another of this run or a file to be kept."""
    taken = {path.resolve() for path in kept}
    for job in jobs:
        check_writable(job.output)
        results = {job.video.resolve(), job.record.resolve()}
        if results & taken:
            raise MochiError(f"{min(results & taken)}: this run would write over it; choose another output")
        taken |= results


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MochiError(f"{path}: cannot be read ({error})") from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _job(line: str, chosen: Chosen, defaults: RunDefaults, output: Path) -> Job:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise MochiError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise MochiError("not a JSON object with settings")
    values.pop("run", None)  # in a record: how the video was made
    name = values.pop("output", None) or str(output)
    if not isinstance(name, str):
        raise MochiError(f"output is {name!r}, but must be a file name")
    given = {key: value for key, value in values.items() if value is not None}
    return Job(GenerateSettings.of(defaults, **{**chosen, **given}), Path(name))
