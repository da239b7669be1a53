"""One video that is asked for, and the files that it becomes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MochiError
from ..settings import GenerateSettings
from ..video import check_video, check_writable, format_of, target_path
from ..video.paths import check_path, temporary_beside


@dataclass(frozen=True)
class Job:
    """One video to make.

    Attributes:
        settings: of the video.
        output: the file name that picks its format.
        line: of the file that asks for it, None where options do.
        seed_drawn: whether nobody has chosen the seed, so that any other would do.
    """

    settings: GenerateSettings
    output: Path
    line: int | None = None
    seed_drawn: bool = False

    @property
    def video(self) -> Path:
        """The file or, for PNG, the folder."""
        return target_path(self.output, format_of(self.output))

    @property
    def record(self) -> Path:
        """Where the settings are written: beside the video."""
        return self.video.with_suffix(".json")

    def check_output(self) -> None:
        """Raise MochiError if the video or its record cannot be what is asked for, or cannot be written there."""
        settings = self.settings
        check_video(format_of(self.output), settings.fps, (settings.width, settings.height))
        check_writable(self.output)
        check_path(self.record, temporary_beside(self.record))
        if os.path.isdir(self.record):
            raise MochiError(f"{self.record}: there is a folder of that name, which the record of the video is to have")


def check_names(jobs: Sequence[Job]) -> None:
    """Raise MochiError where two jobs would write the same file."""
    lines: dict[str, int | None] = {}
    for job in jobs:
        for name in {os.path.realpath(job.video), os.path.realpath(job.record)}:
            if name in lines:
                raise MochiError(
                    f"{name}: lines {lines[name]} and {job.line} would both write it; choose another output"
                )
            lines[name] = job.line
