"""Describes a video: what it is, how it was made, by what lies beside it and in it, and who vouches for that."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..batch.record import fingerprint
from ..errors import MochiError
from ..hub.catalog import readable
from ..provenance import SIGNED, Credentials, NotInstalled, read_credentials
from ..video.reading import Found, look_at
from .describe_workflow import Workflow, workflow_of
from .shown import settings_in_lines, shown

NO_MATTER = {"output", "nbytes", "sha256"}
"""Parts of a record that say nothing of how a video was made."""


@dataclass(frozen=True)
class Record:
    """The record beside a video, as VIDEO.json.

    Attributes:
        file: its name.
        of_this_file: whether it is that of this very file, by the hash; None where it has none.
        settings: what is in it.
    """

    file: str
    of_this_file: bool | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class VideoDescription:
    """The description of a video.

    Attributes:
        bytes: its size.
        found: what it is.
        record, workflow, credentials: None where there is none.
        unknown: why nothing is known of credentials; None where they were looked for.
    """

    path: str
    bytes: int
    found: Found
    record: Record | None
    workflow: Workflow | None
    credentials: Credentials | None
    unknown: str | None

    def as_json(self) -> dict[str, Any]:
        found, signed = self.found, self.credentials
        return {
            "path": self.path,
            "bytes": self.bytes,
            "format": found.format,
            "width": found.size[0],
            "height": found.size[1],
            "frames": found.frames,
            "fps": found.fps,
            "seconds": found.seconds,
            "record": self.record and asdict(self.record),
            "workflow": self.workflow and asdict(self.workflow),
            "credentials": signed and asdict(signed),
            "credentials_unknown": self.unknown,
        }

    def lines(self) -> list[str]:
        """For people."""
        found = self.found
        facts = [readable(self.bytes), found.format, f"{found.size[0]} x {found.size[1]} pixels"]
        facts.append(f"{found.frames} frame{'s' * (found.frames != 1)}")
        if found.fps is not None and found.seconds is not None:
            facts.append(f"{found.fps:g} frames a second, {found.seconds:.2f} s")
        lines = [f"{self.path}: {', '.join(facts)}"]
        if self.record is not None:
            lines += [f"  settings, in {shown(self.record.file)}{_whose(self.record)}"]
            lines += settings_in_lines(self.record.settings)
        if self.workflow is not None:
            lines += self.workflow.lines()
        if self.record is None and self.workflow is None:
            lines.append("  settings: neither a record beside it nor a workflow in it")
        return [*lines, *self._signed()]

    def _signed(self) -> list[str]:
        if self.unknown is not None:
            return [f"  credentials: {self.unknown}"]
        if self.credentials is None:
            return [f"  no credentials{'' if self.found.format in SIGNED else ', which this format cannot hold'}"]
        return credentials_in_lines(self.credentials)


def describe_video(path: Path) -> VideoDescription | None:
    """Describe a video; None where it is something else. Raises MochiError on one that cannot be read."""
    try:
        found = look_at(path)
    except OSError:
        return None  # whoever is asked next says so
    if found is None:
        return None
    credentials, unknown = None, None
    try:
        mark = fingerprint(path)
    except OSError as error:
        raise MochiError(f"{path}: cannot be read as a whole ({error})") from error
    try:
        credentials = read_credentials(path)
    except NotInstalled as error:
        unknown = f"not looked for. {error}"
    record = _record(path, mark["sha256"])
    return VideoDescription(str(path), mark["nbytes"], found, record, workflow_of(found.metadata), credentials, unknown)


def credentials_in_lines(signed: Credentials) -> list[str]:
    """For people, who did not write them."""
    if not signed.signed_by:
        return [f"  credentials: {'; '.join(map(shown, signed.problems))}"]
    name = shown(signed.signed_by)
    if signed.organisation not in ("", signed.signed_by):
        name += f" ({shown(signed.organisation)})"
    problems = "; ".join(map(shown, signed.problems[:4]))
    if len(signed.problems) > 4:
        problems += f"; and {len(signed.problems) - 4} more"
    if signed.matches:
        known = "" if signed.trusted else ", whom no trust list here vouches for"
        but = f", but {problems}" if problems else ""
        lines = [f"  credentials: signed by {name}{known}; the file is as they signed it{but}"]
    else:
        lines = [f"  credentials of {name}, WHICH DO NOT MATCH: {problems}"]
    said = [", ".join(shown(_in_words(kind)) for kind in signed.source_types)]
    if signed.program:
        said.append(f"made with {shown(signed.program)}")
    if signed.stamped:
        said.append(f"time stamped {shown(signed.stamped)}")
    elif signed.made:
        said.append(f"made {shown(signed.made)} by their own word")
    lines.append(f"    they say: {', '.join(filter(None, said))}")
    return lines + settings_in_lines(signed.settings)


def _in_words(name: str) -> str:
    """trainedAlgorithmicMedia -> trained algorithmic media"""
    return re.sub("[A-Z]", lambda letter: f" {letter[0].lower()}", name)


def _whose(record: Record) -> str:
    if record.of_this_file is None:
        return " beside it, which does not say of which file it is:"
    return " beside it, the record of this very file:" if record.of_this_file else " beside it, BUT OF ANOTHER FILE:"


def _record(path: Path, sha256: str) -> Record | None:
    beside = path.absolute().with_suffix(".json")
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        run = values.get("run", {})
        if "prompt" not in values or not isinstance(run, dict):
            return None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None
    of_this_file = run["sha256"] == sha256 if "sha256" in run else None
    settings = {name: value for name, value in {**values, **run}.items() if name not in {*NO_MATTER, "run"}}
    return Record(beside.name, of_this_file, settings)
