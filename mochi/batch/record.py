"""The record of a video, a JSON file of its settings beside it: written, and compared with what is asked for."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import MochiError
from ..video.paths import temporary_beside
from .job import Job
from .requests import Made

BLOCK = 2**20


@dataclass(frozen=True)
class Recipe:
    """What all videos of a run are made with, as a person asks for it.

    Attributes:
        model: its directory, or the name of a built-in one.
        variant: which Mochi it is.
        asked_dtype: of weights and computation; None for the device's own.
        loras: FILE[=STRENGTH] each.
        quality: see VideoWriter.
        signed_by: the name of the certificate that signs them; None where none does.
        checked_for: what their frames are checked for, in words.
    """

    model: str
    variant: str
    asked_dtype: str | None = None
    loras: tuple[str, ...] = ()
    quality: int = 70
    signed_by: str | None = None
    checked_for: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As records have it: nothing of signing where nobody signs, nor of checks where there are none."""
        optional = ("signed_by", "checked_for")
        return {name: value for name, value in asdict(self).items() if name not in optional or value}


def write_record(job: Job, recipe: Recipe, made: Made) -> None:
    """Writes the settings of a video beside it. Raises MochiError, and leaves nothing, where that is not possible."""
    record = {**job.settings.as_dict(), "output": str(job.output), "run": {**recipe.as_dict(), **made.facts}}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    part = temporary_beside(job.record)
    try:
        # Halves of characters, which a file name may have, become escapes of JSON.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, job.record)
    except OSError as error:
        raise MochiError(f"{job.record}: the record of the video could not be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def remaining(jobs: Iterable[Job], recipe: Recipe) -> list[Job]:
    """The jobs whose videos are not there yet. Where only the seed of a record was drawn, the job takes it."""
    resumed = (_as_recorded(job, recipe) for job in jobs)
    return [job for job in resumed if not is_made(job, recipe)]


def is_made(job: Job, recipe: Recipe) -> bool:
    """Whether a video is there as this run would make it: its record says so, and its bytes are those of the record.

    Pictures, LoRAs and models are compared by their names, not by what is in them.
    """
    record = _matching_record(job, recipe)
    if record is None or (record["seed"] != job.settings.seed and not job.seed_drawn):
        return False
    try:
        return fingerprint(job.video) == {name: record["run"].get(name) for name in ("nbytes", "sha256")}
    except OSError:
        return False


def fingerprint(video: Path) -> dict[str, Any]:
    """The size of a video in bytes, and its SHA-256; of a folder, that of its files, in the order of their names."""
    files = sorted(video.iterdir()) if video.is_dir() else [video]
    total, digest = 0, hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                total += len(block)
                digest.update(block)
    return {"nbytes": total, "sha256": digest.hexdigest()}


def _as_recorded(job: Job, recipe: Recipe) -> Job:
    record = _matching_record(job, recipe) if job.seed_drawn else None
    if record is None:
        return job
    return replace(job, settings=replace(job.settings, seed=record["seed"]), seed_drawn=False)


def _matching_record(job: Job, recipe: Recipe) -> Mapping[str, Any] | None:
    """The record beside a video, if all but the seed is what is asked for; None where it is not, or there is none."""
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        found = {**record, "run": {name: record["run"][name] for name in recipe.as_dict()}}
        asked = {**job.settings.as_dict(), "output": str(job.output), "run": recipe.as_dict()}
        is_same = json.loads(json.dumps({**asked, "seed": found["seed"]})) == found
        replace(job.settings, seed=found["seed"])  # raises MochiError, a ValueError, where it is none
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return record if is_same else None
