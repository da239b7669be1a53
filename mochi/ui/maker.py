"""Makes what visitors ask for, one video after the other, with one pipeline."""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..batch.make import make_video, open_pipeline
from ..batch.record import Recipe, write_record
from ..batch.requests import FramesWritten, LoadPipeline
from ..batch.seal import seal_for
from ..config import RunDefaults
from ..errors import Cancelled, GroupError, MochiError
from ..lora.apply import Loras
from ..model_dir import ModelDir
from ..parallel.protocol import Counted
from ..provenance import Signer
from ..safety import Guard, SafetySettings, logged
from ..sampling import Denoised
from .desk import Desk, Run
from .preview import preview

if TYPE_CHECKING:
    from ..pipeline import Pipeline

LOOK = 0.5
"""Seconds between two looks at whether the page is still there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """What videos are made with.

    Attributes:
        defaults: of the model, where a person chooses nothing.
        load: the pipeline, without LoRAs.
        recipe: the same in words, for the records.
        loras: those that can be chosen, and their files.
        checks, signer: where they are wanted.
    """

    model: ModelDir
    defaults: RunDefaults
    load: LoadPipeline
    recipe: Recipe
    loras: Loras = ()
    lora_files: Sequence[str] = ()
    checks: SafetySettings | None = None
    signer: Signer | None = None


def make_runs(desk: Desk, workshop: Workshop, check: Callable[[], None]) -> None:
    """Make videos for ever. The model is loaded before anybody asks.

    check: is called all the while; what it raises ends it. Raises MochiError where the model cannot be loaded.
    """
    guard = None if workshop.checks is None else workshop.checks.guard()
    pipeline = open_pipeline(workshop.load, workshop.model)
    gc.enable()  # see mochi/cli/ui.py
    try:
        while True:
            check()
            run = desk.next(LOOK)
            if run is None:
                continue
            try:
                if pipeline is None:
                    desk.tell(run, "loading the model again")
                    pipeline = open_pipeline(workshop.load, workshop.model)
                make(pipeline, run, desk, workshop, guard)
            except Cancelled:
                desk.was_cancelled(run)
            except MochiError as error:
                desk.failed(run, str(error))
            except Exception as error:  # of a group that failed, of the machine's memory: the next one may go well
                is_known = isinstance(error, GroupError)  # its text says all that a traceback would
                log.warning("%s: %s", run.job.video.name, error, exc_info=None if is_known else error)
                first, _, _ = str(error).partition("\n")
                reason = first if is_known else f"{type(error).__name__}: {first}"
                desk.failed(run, f"{reason} (the terminal says more)")
                if pipeline is not None:
                    pipeline.close()
                pipeline = None
    finally:
        desk.close()
        if pipeline is not None:
            pipeline.close()


def make(pipeline: "Pipeline", run: Run, desk: Desk, workshop: Workshop, guard: Guard | None) -> None:
    """Make one video and its record."""
    settings, stats = run.job.settings, workshop.model.config.latents
    run.job.check_output()  # again: the disk may be another one by now
    chosen = list(zip(workshop.loras, run.strengths))
    pipeline.use_loras([(lora, strength) for (lora, _), strength in chosen if strength])
    picture: list[bytes] = [b""]

    def tell(told: Counted) -> None:
        what = "decoding" if isinstance(told, FramesWritten) else "sampling"
        desk.tell(run, f"{what}: {told.unit} {told.done} of {told.total}", told.done, told.total, picture[0])

    def on_preview(denoised: Denoised) -> None:
        picture[0] = preview(denoised.estimate, stats)

    desk.tell(run, "reading the prompt")
    names = (f"{file}={strength:g}" for file, strength in zip(workshop.lora_files, run.strengths) if strength)
    recipe = replace(workshop.recipe, loras=tuple(names))
    where = run.job.output, recipe.quality
    with logged(guard and guard.log, run.job.output):
        seal = seal_for(workshop.signer, settings, recipe)
        # What nobody has checked is not shown: neither is a preview, where frames are to be checked.
        shown = on_preview if guard is None or not guard.looks_at_frames else None
        options = {"guard": guard, "seal": seal, "preview": shown}
        made = make_video(pipeline, settings, *where, tell, run.cancelled.is_set, **options)
    write_record(run.job, recipe, made)
    desk.made(run)
