"""The command `generate`: videos from prompts."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.job import Job
from ..batch.make import make_video, open_pipeline
from ..batch.record import Recipe, write_record
from ..batch.requests import LoadPipeline
from ..batch.seal import seal_for
from ..config import RunDefaults, pusa_defaults
from ..errors import MochiError
from ..parallel.settings import ParallelSettings
from ..provenance import Signer
from ..safety import Guard, logged
from ..sampling.guidance import parse_cfg, parse_layers
from ..settings import GenerateSettings
from ..variant import PUSA
from ..video import DEFAULT_QUALITY
from . import cluster, given, model_options, safety, signing
from .bars import Bars
from .jobs import read_jsonl, sift
from .lora import named_loras
from .model_options import DTYPES, check_device, check_gpus, check_offload
from .published import IN_HELP, LEMON

if TYPE_CHECKING:
    from ..pipeline import Pipeline


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        description="Makes a video from a prompt, and writes its settings beside it as JSON.",
        epilog=f"What is not given is the model's own default. {IN_HELP}",
    )
    parser.set_defaults(run=generate)
    add = parser.add_argument
    add("prompt", nargs="?", help="what the video shows (default: the published example, with --model-dir)")
    add("--prompt", dest="named_prompt", metavar="PROMPT", help="the same, by name")
    add("--negative", metavar="PROMPT", help="what the video does not show")
    add("--seed", type=int, help="of the noise; by default a random one, which is recorded")
    add("--steps", type=int, help="sampling steps")
    add("--cfg", metavar="NUMBERS", help="guidance: a number, or one for each step with commas between them")
    add("--width", type=int, help="in pixels, a multiple of 16")
    add("--height", type=int, help="in pixels, a multiple of 16")
    add("--frames", type=int, help="6k + 1 of them")
    add("--fps", type=float, help="frames a second")
    add("--threshold-noise", type=float, metavar="NOISE", help="how much noise the linear steps take away")
    add("--linear-steps", type=int, metavar="STEPS", help="how many steps are linear; by default half of them")
    add(
        "--stg",
        type=_scale,
        nargs="?",
        const=1.0,
        metavar="SCALE",
        help="skip-layer guidance, away from what the network makes without some of its blocks: one more pass in a "
        "step (default: 0, none; without a number 1)",
    )
    add("--stg-layers", metavar="NUMBERS", help="the blocks to leave out, from 0, with commas between them")
    add("--stg-rescale", type=float, metavar="PART", help="how much of the contrast that it adds is taken back, 0 to 1")
    add(
        "--teacache",
        type=float,
        metavar="THRESHOLD",
        help="skip the network where its input hardly changes, such as 0.06: faster, and somewhat another video "
        "(default: 0, exact)",
    )
    given.add_options(add)
    add("--output", type=Path, metavar="FILE", help=".mp4, .webm, .gif, or .png for a folder of frames; is replaced")
    add("--folder", type=Path, metavar="DIR", help="a folder for outputs that are not named")
    add("--quality", type=int, default=DEFAULT_QUALITY, help="of mp4 and webm, 0 to 100 (default: %(default)s)")
    add(
        "--jsonl",
        type=Path,
        metavar="FILE",
        help="many videos: a JSON object a line, with settings under the names of these options (prompt, linear_steps, "
        "..., output; images for a list of --image), or the published ones; options given here hold where a line does "
        "not say otherwise; a bad line does not end the others",
    )
    signing.add_option(add)
    model_options.add_options(parser)
    safety.add_option(parser)
    cluster.add_options(parser)


def generate(options: argparse.Namespace) -> None:
    """Makes the videos. All that can be checked is checked before weights are read.

    What is wrong with a line of a file is printed as it is known. Raises MochiError at the end, when all others are.
    """
    cluster.check_options(options)
    checks = safety.chosen(options)
    device = check_device(options.device)
    signer = Signer.chosen(options.sign)
    parallel = check_parallel(options)
    choose_prompt(options)
    model = model_options.open_model(options)
    variant, reason = given.chosen_variant(options.variant, model)
    defaults = model.config.defaults
    jobs, wrong = read_jobs(options, pusa_defaults(defaults) if variant == PUSA else defaults)
    each = given.check_of(model, variant, jobs), signing.check_of(signer), safety.check_of(checks)
    jobs, unfit = sift(jobs, *each)
    wrong |= unfit
    for line, error in sorted(wrong.items()):
        print(f"error: {options.jsonl}, line {line}: {error}", file=sys.stderr)
    if jobs:
        if options.guidance > max(2, *(job.settings.passes for job in jobs)):
            raise MochiError("guidance is 3, but without --stg a step has 2 passes: the nearest is 2")
        if options.prompt is LEMON:
            print(f"no prompt was given: this is the published example. {LEMON}", file=sys.stderr)
        given.tell(jobs, variant, reason)
        dtype, chosen = options.dtype, tuple(options.lora)
        name = str(options.model_dir or model.config.name)
        handled = signer and signer.name, checks.of_frames if checks is not None else ()
        recipe = Recipe(name, variant, dtype, chosen, options.quality, *handled)
        passes = max(2, min(job.settings.passes for job in jobs))
        how = device, options.attention, options.compile, parallel, variant
        files = options.model_dir, DTYPES.get(dtype)
        load = LoadPipeline(*files, *how, named_loras(chosen), passes, options.cpu_offload, model.t5, checks)
        if options.ray is not None and options.jsonl is not None:
            wrong |= cluster.make_on_machines(jobs, options, model, load, recipe, signer)
        else:
            guard = None if checks is None else checks.guard()
            with closing(open_pipeline(load, model)) as pipeline:
                wrong |= make_all(pipeline, jobs, recipe, options.jsonl, guard, signer)
                print(f"attention: {pipeline.attention}", file=sys.stderr)
    if wrong:
        lines = ", ".join(map(str, sorted(wrong)))
        raise MochiError(
            f"{options.jsonl}: {f'line {lines} was' if len(wrong) == 1 else f'lines {lines} were'} not made"
        )


def make_all(
    pipeline: "Pipeline",
    jobs: Sequence[Job],
    recipe: Recipe,
    jsonl: Path | None,
    guard: Guard | None,
    signer: Signer | None,
) -> dict[int, MochiError]:
    """Makes videos one after the other. Prints and returns what was wrong with the lines that could not be made."""
    wrong = {}
    for number, job in enumerate(jobs, 1):
        try:
            make(pipeline, job, recipe, f"{number}/{len(jobs)}" if len(jobs) > 1 else "sampling", guard, signer)
        except MochiError as error:
            if job.line is None:
                raise
            print(f"error: {jsonl}, line {job.line}: {error}", file=sys.stderr)
            wrong[job.line] = error
    return wrong


def make(
    pipeline: "Pipeline", job: Job, recipe: Recipe, title: str, guard: Guard | None, signer: Signer | None
) -> None:
    """Makes one video and its record, and prints the path."""
    job.check_output()  # again: the run before may have taken hours
    with Bars(title) as bars, logged(guard and guard.log, job.output):
        seal = seal_for(signer, job.settings, recipe)
        made = make_video(pipeline, job.settings, job.output, recipe.quality, bars.show, guard=guard, seal=seal)
    if made.cache:
        print(made.cache, file=sys.stderr)
    write_record(job, recipe, made)
    print(job.video, flush=True)


def choose_prompt(options: argparse.Namespace) -> None:
    """Settle which prompt a command line has. Raises MochiError where it has none, or several."""
    if None not in (options.prompt, options.named_prompt):
        raise MochiError("the prompt is there twice: give it once, with --prompt or without")
    if options.prompt is None:
        options.prompt = options.named_prompt
    if options.prompt is None and options.jsonl is None and options.model_dir is not None:
        options.prompt = LEMON
    if (options.prompt is None) == (options.jsonl is None):
        raise MochiError("give either a prompt or --jsonl FILE")


def read_jobs(options: argparse.Namespace, defaults: RunDefaults) -> tuple[list[Job], dict[int, MochiError]]:
    """The videos that a command line asks for, all of them checked, and what is wrong with lines of its file."""
    if not 0 <= options.quality <= 100:
        raise MochiError(f"quality is {options.quality}, but must be between 0 and 100")
    needless = [name for name in ("stg_layers", "stg_rescale") if getattr(options, name) is not None]
    if needless and options.stg is None and options.jsonl is None:
        raise MochiError(f"{needless[0]} says how skip-layer guidance works, which is off: add --stg")
    if None not in (options.output, options.folder):
        raise MochiError("give either --output, for a file, or --folder")
    chosen = {field.name: getattr(options, field.name) for field in fields(GenerateSettings)}
    if options.cfg is not None:
        chosen["cfg"] = parse_cfg(options.cfg)
    if options.stg_layers is not None:
        chosen["stg_layers"] = parse_layers(options.stg_layers)
    if options.jsonl is not None:
        # Over several machines only what is missing is made, and what is there is checked with the recipe.
        check = Job.check_output if options.ray is None else _unchecked
        output = options.output or (options.folder and options.folder / f"{options.jsonl.stem}.mp4")
        return read_jsonl(options.jsonl, chosen, defaults, output, check)
    settings = GenerateSettings.of(defaults, **chosen)
    output = options.output or (options.folder or Path()) / f"mochi_{settings.seed}.mp4"
    job = Job(settings, output, seed_drawn=options.seed is None)
    job.check_output()
    return [job], {}


def _unchecked(_: Job) -> None:
    """Its output is checked later."""


def _scale(text: str) -> float:
    """A number behind --stg, which a prompt there would be taken for."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write the prompt first, or --stg=1") from None


def check_parallel(options: argparse.Namespace) -> ParallelSettings | None:
    """How to spread the work over devices, which must be there; None where one device does it in this process."""
    if options.ray is None:
        return check_gpus(options)
    parallel = cluster.parallel_over(options) if options.jsonl is None else cluster.parallel_of_worker(options)
    check_offload(options, parallel)
    return parallel
