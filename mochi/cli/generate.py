"""The command `generate`: videos from prompts."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..config import RunDefaults, pusa_defaults
from ..dit.backends import ATTENTIONS, SDPA
from ..dit.cache import in_words
from ..errors import MochiError
from ..model_dir import find_model
from ..parallel.settings import SHARDING_CHOICES, TIMEOUT, ParallelSettings
from ..sampling import Denoised, Watch
from ..sampling.guidance import parse_cfg, parse_layers
from ..settings import GenerateSettings
from ..variant import PUSA
from ..video import DEFAULT_QUALITY, VideoWriter
from ..video.paths import temporary_beside
from . import given
from .jobs import Job, read_jsonl
from .lora import add_option, read_loras

if TYPE_CHECKING:
    from ..pipeline import Pipeline

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        help="make a video from a prompt",
        description="Makes a video from a prompt, and writes its settings beside it as JSON.",
        epilog="What is not given is the model's own default.",
    )
    parser.set_defaults(run=generate)
    add = parser.add_argument
    add("prompt", nargs="?", help="what the video shows")
    add("--model-dir", type=Path, metavar="DIR", help="weights; without it, the built-in tiny model")
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
    add("--quality", type=int, default=DEFAULT_QUALITY, help="of mp4 and webm, 0 to 100 (default: %(default)s)")
    add(
        "--dtype",
        choices=DTYPES,
        help="of weights and computation (default: float32 on the CPU, else bfloat16, "
        "and quantised weights stay as they are; float8: of weights only)",
    )
    add(
        "--attention",
        choices=ATTENTIONS,
        default=SDPA,
        help="torch's own (sdpa), FlashAttention 2 or 3, or SageAttention, where installed (default: %(default)s)",
    )
    add("--compile", action="store_true", help="compile the denoiser's blocks with torch.compile: slow to start")
    add_option(add)
    add("--device", help="such as cpu or cuda:1 (default: the GPU if there is one)")
    add(
        "--jsonl",
        type=Path,
        metavar="FILE",
        help="many videos: a JSON object a line, with settings under the names of these options (prompt, linear_steps, "
        "..., output; images for a list of --image); options given here hold where a line does not say otherwise; a "
        "bad line does not end the others",
    )
    add = parser.add_argument_group("one video over several GPUs").add_argument
    add("--gpus", "--ranks", metavar="GPUS", help="how many (4, all) or which (0,1,3); without GPUs, ranks on the CPU")
    add("--guidance", type=int, default=0, choices=(0, 1, 2, 3), help="passes of a step at a time (default: the best)")
    add("--ulysses", type=int, default=0, metavar="RANKS", help="ranks for each pass (default: the best)")
    add("--weights", choices=SHARDING_CHOICES, default="auto", help="what each GPU holds (default: %(default)s)")
    add("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="for a GPU to move on (default: %(default)s)")


def generate(options: argparse.Namespace) -> None:
    """Makes the videos. All that can be checked is checked before weights are read.

    What is wrong with a line of a file is printed as it is known. Raises MochiError at the end, when all others are.
    """
    device = check_device(options.device)
    parallel = check_parallel(options)
    model = find_model(options.model_dir)
    variant, reason = given.chosen_variant(options.variant, model)
    defaults = model.config.defaults
    jobs, wrong = read_jobs(options, pusa_defaults(defaults) if variant == PUSA else defaults)
    jobs, unfit = given.fitting(jobs, model, variant)
    wrong |= unfit
    for line, error in sorted(wrong.items()):
        print(f"error: {options.jsonl}, line {line}: {error}", file=sys.stderr)
    if jobs:
        if options.guidance > max(2, *(job.settings.passes for job in jobs)):
            raise MochiError("guidance is 3, but without --stg a step has 2 passes: the nearest is 2")
        loras = read_loras(options.lora, model.config.dit)
        given.tell(jobs, variant, reason)

        from ..pipeline import load_pipeline  # imports transformers, which takes seconds

        how = DTYPES.get(options.dtype), device, options.attention, options.compile, parallel, variant
        passes = max(2, min(job.settings.passes for job in jobs))
        with closing(load_pipeline(model, *how, passes)) as pipeline:
            pipeline.use_loras(loras)
            wrong |= make_all(pipeline, jobs, options)
            print(f"attention: {pipeline.attention}", file=sys.stderr)
    if wrong:
        lines = ", ".join(map(str, sorted(wrong)))
        raise MochiError(
            f"{options.jsonl}: {f'line {lines} was' if len(wrong) == 1 else f'lines {lines} were'} not made"
        )


def make_all(pipeline: "Pipeline", jobs: Sequence[Job], options: argparse.Namespace) -> dict[int, MochiError]:
    """Makes videos one after the other. Prints and returns what was wrong with the lines that could not be made."""
    wrong = {}
    for number, job in enumerate(jobs, 1):
        try:
            make(pipeline, job, options, f"{number}/{len(jobs)}" if len(jobs) > 1 else "sampling")
        except MochiError as error:
            if job.line is None:
                raise
            print(f"error: {options.jsonl}, line {job.line}: {error}", file=sys.stderr)
            wrong[job.line] = error
    return wrong


def make(pipeline: "Pipeline", job: Job, options: argparse.Namespace, title: str) -> None:
    """Makes one video and its record, and prints the path."""
    settings, started = job.settings, time.monotonic()
    job.check_output()  # again: the run before may have taken hours
    with tqdm(total=settings.steps, desc=title, unit="step") as bar:

        def on_step(_: Denoised) -> None:
            bar.update()

        latents = pipeline.denoise(settings, Watch(on_step))
    if settings.teacache:
        print(in_words(pipeline.passes), file=sys.stderr)
    size = (settings.width, settings.height)
    with (
        tqdm(total=settings.frames, desc="decoding", unit="frame") as bar,
        VideoWriter(job.output, settings.fps, size, quality=options.quality) as video,
    ):
        for frames in pipeline.decode(latents, as_bytes=True):
            video.write(frames)
            bar.update(len(frames))
    record = {
        **settings.as_dict(),
        "output": str(job.output),
        "run": {
            "model": str(options.model_dir or pipeline.config.name),
            "variant": pipeline.variant,
            "dtype": str(pipeline.denoiser.dtype).removeprefix("torch."),
            "device": ", ".join(map(str, pipeline.denoiser.devices)),
            "attention": pipeline.attention,
            "loras": options.lora,
            "seconds": round(time.monotonic() - started, 1),
        },
    }
    write_record(job.record, record)
    print(video.path, flush=True)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes the settings of a video beside it. Raises MochiError, and leaves nothing, where that is not possible."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    part = temporary_beside(path)
    try:
        # Halves of characters, which a file name may have, become escapes of JSON.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(part, path)
    except OSError as error:
        raise MochiError(f"{path}: the record of the video could not be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def read_jobs(options: argparse.Namespace, defaults: RunDefaults) -> tuple[list[Job], dict[int, MochiError]]:
    """The videos that a command line asks for, all of them checked, and what is wrong with lines of its file."""
    if (options.prompt is None) == (options.jsonl is None):
        raise MochiError("give either a prompt or --jsonl FILE")
    if not 0 <= options.quality <= 100:
        raise MochiError(f"quality is {options.quality}, but must be between 0 and 100")
    needless = [name for name in ("stg_layers", "stg_rescale") if getattr(options, name) is not None]
    if needless and options.stg is None and options.jsonl is None:
        raise MochiError(f"{needless[0]} says how skip-layer guidance works, which is off: add --stg")
    chosen = {field.name: getattr(options, field.name) for field in fields(GenerateSettings)}
    if options.cfg is not None:
        chosen["cfg"] = parse_cfg(options.cfg)
    if options.stg_layers is not None:
        chosen["stg_layers"] = parse_layers(options.stg_layers)
    if options.jsonl is not None:
        return read_jsonl(options.jsonl, chosen, defaults, options.output)
    settings = GenerateSettings.of(defaults, **chosen)
    job = Job(settings, options.output or Path(f"mochi_{settings.seed}.mp4"))
    job.check_output()
    return [job], {}


def _scale(text: str) -> float:
    """A number behind --stg, which a prompt there would be taken for."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write the prompt first, or --stg=1") from None


def check_parallel(options: argparse.Namespace) -> ParallelSettings | None:
    """How to spread the work over devices, which must be there; None where one device does it in this process."""
    if options.gpus is None:
        return None
    if options.device is not None:
        raise MochiError("give either --device, for one, or --gpus")
    parallel = ParallelSettings(options.gpus, options.guidance, options.ulysses, options.weights, options.timeout)
    return None if parallel.in_process else parallel


def check_device(name: str | None) -> torch.device | None:
    """The device of that name, which must be there."""
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MochiError(f"device {name!r} cannot be used here: {reason}") from error
    return device
