"""`--image FILE[@FRAME[=STRENGTH]]` of the command line, and which Mochi takes it."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..batch.job import Job
from ..errors import MochiError
from ..images import FORM, noise_multipliers
from ..model_dir import ModelDir
from ..settings import GenerateSettings
from ..variant import VARIANTS, takes_frames
from .jobs import Check

AUTO = "auto"


def add_options(add: Callable[..., Any]) -> None:
    """Adds the option, which can be repeated."""
    add(
        "--image",
        dest="images",
        action="append",
        metavar=FORM,
        help="a picture that a frame of the video is given, cropped to its ratio; can be given several times. FRAME "
        "counts from 0, or from the end, -1 the last one (default: 0); STRENGTH is 1 where it stays as it is, and less "
        "where the video may change it (default: 1)",
    )


def add_variant(add: Callable[..., Any]) -> None:
    """Adds the option that says which Mochi the weights are."""
    add(
        "--variant",
        choices=(AUTO, *VARIANTS),
        default=AUTO,
        help="which Mochi the weights are. preview: the plain one, which keeps given images, but was not trained to go "
        "on from them. pusa: Pusa V0.5. frames: another one that was trained with a noise level for each frame. "
        "auto: by the file's metadata and name (default: %(default)s)",
    )


def chosen_variant(chosen: str, model: ModelDir) -> tuple[str, str]:
    """The variant of a model, and in words why it is this one."""
    return model.variant if chosen == AUTO else (chosen, "chosen")


def check_for_model(settings: GenerateSettings, model: ModelDir, variant: str) -> None:
    """Raise MochiError for blocks that a model does not have, and for images that it cannot be given.

    Pictures are read, and weights are not.
    """
    settings.check_depth(model.config.dit.depth)
    if settings.images:
        noise_multipliers(settings.images, settings.frames, variant)
        for image in settings.images:
            image.read(settings.width, settings.height)
        _ = model.encoder  # which says what is missing


def check_of(model: ModelDir, variant: str, jobs: Sequence[Job] = ()) -> Check:
    """A check whether a model can do a job, and whether its pictures stay.

    jobs: those whose videos are going to be written.
    """
    written = {os.path.realpath(path) for job in jobs for path in (job.video, job.record)}

    def check(job: Job) -> None:
        check_for_model(job.settings, model, variant)
        for image in job.settings.images:
            if os.path.realpath(image.file) in written:
                raise MochiError(f"{image.name}: a video would be written over it; choose another output")

    return check


def tell(jobs: Sequence[Job], variant: str, reason: str) -> None:
    """Print what becomes of given images, where there are any."""
    if not any(job.settings.images for job in jobs):
        return
    print(*about(variant, reason), sep="\n", file=sys.stderr)


def about(variant: str, reason: str) -> list[str]:
    """Which Mochi it is, and what becomes of given images."""
    lines = [f"variant {variant}: {reason}"]
    if not takes_frames(variant):
        lines.append(
            "This model knows one noise level for all frames: images are kept, whatever their strength, and the other "
            "frames are made to fit. Pusa V0.5 goes on from them (`python -m mochi download --variant pusa`); if this "
            "is one, add --variant pusa."
        )
    return lines
