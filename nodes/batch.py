"""Many videos at once, made by the machines of a cluster."""

import time
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..mochi.batch.job import Job
from ..mochi.batch.record import Recipe
from ..mochi.batch.requests import LoadPipeline
from ..mochi.cli import given, signing
from ..mochi.cli.jobs import missing, read_lines, sift
from ..mochi.cli.safety import check_of as check_of_prompts
from ..mochi.cluster.attach import AUTO, check_address, check_installed
from ..mochi.errors import MochiError
from ..mochi.model_dir import ModelDir, find_model
from ..mochi.parallel.settings import ParallelSettings
from ..mochi.provenance import Signer
from ..mochi.safety import SafetySettings
from ..mochi.video import FORMATS
from . import widgets
from .host.batch import Shown, make_on_cluster, model_folder, report
from .host.batch_lines import check_inside, lines_of, place_of
from .host.checks import complaint
from .host.output import check_prefix, show_all
from .host.progress import show_text
from .host.safety import Checks
from .parallel import MAX_GPUS
from .safety import MochiSafety

OWN = "0: the model's own."


class ClusterBatch(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelBatch",
            "Mochi Cluster Batch",
            "Makes many videos on the machines of a Ray cluster, each on one of them, and shows them as they come. "
            "What is there already is not made again.",
            found_as=("many videos", "ray", "render farm", "queue", "jsonl", "distributed"),
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    tooltip="A prompt a line. A line can be a JSON object of settings instead, as the help page shows.",
                ),
                io.String.Input(
                    "model_dir",
                    default="",
                    tooltip="The folder with the files of one model, below ComfyUI's models folder or anywhere. Empty: "
                    "the tiny model that comes with the pack.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/batch",
                    tooltip="Folder and start of the names, inside ComfyUI's output folder. The number of the line is "
                    "put behind.",
                ),
                widgets.choice("format", FORMATS, "Of videos whose lines name no output. png is a folder of frames."),
                widgets.count(
                    "seed",
                    -1,
                    (-1, 2**64 - 1),
                    "Of lines without one. -1: a random one for each, which is recorded.",
                    control_after_generate=False,
                ),
                widgets.count("steps", 0, (0, widgets.MAX_STEPS), f"Of lines that do not say. {OWN}"),
                widgets.number("cfg", 0.0, (0.0, 100.0), f"Of lines that do not say. {OWN}", step=0.1),
                widgets.count(
                    "width", 0, (0, widgets.MAX_SIZE), f"In pixels, of lines that do not say. {OWN}", step=16
                ),
                widgets.count(
                    "height", 0, (0, widgets.MAX_SIZE), f"In pixels, of lines that do not say. {OWN}", step=16
                ),
                widgets.count("frames", 0, (0, widgets.MAX_FRAMES), f"6k + 1, of lines that do not say. {OWN}"),
                io.String.Input(
                    "cluster",
                    default=AUTO,
                    tooltip="auto: the Ray cluster that this machine takes part in. Or the HOST:PORT of its head.",
                ),
                widgets.count(
                    "gpus",
                    1,
                    (1, MAX_GPUS),
                    "How many GPUs of its machine each worker has. A machine gets as many workers as fit.",
                ),
                io.Boolean.Input(
                    "send_weights",
                    default=False,
                    tooltip="Send the model's files to machines that lack them; each keeps them.",
                ),
                MochiSafety.Input(
                    "safety",
                    optional=True,
                    tooltip="From Mochi Safety: prompts are checked here, and frames where they are made, before they "
                    "reach a disk. A classifier's folder must be on each machine, by the same path.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="files", is_output_list=True, tooltip="The paths of the videos."),
                io.String.Output(display_name="report", tooltip="How many videos each machine has made."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        prompts: str | None = None,
        model_dir: str | None = None,
        filename_prefix: str | None = None,
        format: str | None = None,
        seed: int | None = None,
        steps: int | None = None,
        cfg: float | None = None,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        cluster: str | None = None,
    ) -> bool | str:
        chosen = seed, steps, cfg, width, height, frames
        found = complaint(_check_cluster, cluster, widget="cluster")
        found = found or complaint(_model, model_dir, widget="model_dir")
        found = found or complaint(check_prefix, filename_prefix, format, widget="filename_prefix")
        return found or complaint(_jobs, prompts, model_dir, filename_prefix, format, *chosen, widget="prompts") or True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return time.monotonic()  # never the same: files can have gone

    @classmethod
    def execute(
        cls,
        prompts: str,
        model_dir: str,
        filename_prefix: str,
        format: str,
        seed: int,
        steps: int,
        cfg: float,
        width: int,
        height: int,
        frames: int,
        cluster: str,
        gpus: int,
        send_weights: bool,
        safety: Checks | None = None,
    ) -> io.NodeOutput:
        started = time.monotonic()
        jobs = _jobs(prompts, model_dir, filename_prefix, format, seed, steps, cfg, width, height, frames)
        model = _model(model_dir)
        signer = Signer.chosen()
        name = model_dir.strip() or model.config.name
        handled = {"signed_by": signer and signer.name, "checked_for": safety.settings.of_frames if safety else ()}
        recipe = Recipe(name, model.variant[0], **handled)
        passed, blocked = sift(jobs, check_of_prompts(safety and safety.settings))
        to_make, wrong = missing(passed, recipe)
        wrong |= blocked
        shown = Shown([job for job in jobs if job.line not in {*wrong, *(job.line for job in to_make)}], len(to_make))
        if to_make:
            load = _request(to_make, model_dir, model, gpus, safety and safety.settings)
            wrong |= make_on_cluster(to_make, load, recipe, model, cluster.strip(), gpus, send_weights, shown, signer)
        text = report(shown, time.monotonic() - started)
        show_text(text)
        if wrong:
            raise MochiError(_not_made(wrong, text))
        videos = [job.video for job in jobs]
        return io.NodeOutput([*map(str, videos)], text, ui=show_all(videos))


def _check_cluster(address: str) -> None:
    check_address(address.strip())
    check_installed()


def _model(model_dir: str) -> ModelDir:
    """The model of a widget. Raises MochiError where it is none."""
    return find_model(model_folder(model_dir))


def _jobs(
    prompts: str,
    model_dir: str,
    prefix: str,
    format: str,
    seed: int,
    steps: int,
    cfg: float,
    width: int,
    height: int,
    frames: int,
) -> list[Job]:
    """The videos that the widgets ask for. Raises MochiError that names all lines which cannot be made."""
    model = _model(model_dir)
    sizes = {"steps": steps, "cfg": cfg, "width": width, "height": height, "frames": frames}
    chosen = {"seed": None if seed < 0 else seed, **{name: value or None for name, value in sizes.items()}}
    defaults = model.config.defaults
    jobs, wrong = read_lines(lines_of(prompts), chosen, defaults, place_of(prefix, format), check_inside)
    checks = given.check_of(model, model.variant[0], jobs), signing.check_of(Signer.chosen())
    jobs, unfit = sift(jobs, *checks)
    if wrong := wrong | unfit:
        raise MochiError("prompts: " + "; ".join(f"line {line}: {error}" for line, error in sorted(wrong.items())))
    if not jobs:
        raise MochiError("prompts is empty, but must have a prompt a line")
    return jobs


def _request(
    jobs: list[Job], model_dir: str, model: ModelDir, gpus: int, checks: SafetySettings | None
) -> LoadPipeline:
    """What each worker loads."""
    passes = max(2, min(job.settings.passes for job in jobs))
    over = ParallelSettings(str(gpus)) if gpus > 1 else None
    folder: Path | None = model_folder(model_dir)
    how = {"parallel": over, "variant": model.variant[0], "passes": passes}
    return LoadPipeline(folder, **how, t5=model.t5, safety=checks)


def _not_made(wrong: dict[int, MochiError], text: str) -> str:
    lines = "\n".join(f"line {line}: {error}" for line, error in sorted(wrong.items()))
    count = "1 video was" if len(wrong) == 1 else f"{len(wrong)} videos were"
    return f"{count} not made. {text}\n{lines}\nQueued again, what is there is not made again."
