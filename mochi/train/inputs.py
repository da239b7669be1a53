"""What a job says, in the terms of those who do it."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import MochiError
from ..memory import DEQUANTIZING
from ..model_dir import ModelDir
from ..quant import FLOAT8, Float8, QuantLinear
from .data import DataSettings, Example, TrainingSet
from .job import TrainJob
from .log import NAME as LOG
from .memory import Training
from .order import generator_of
from .ranks import Ranks
from .state import NAME as CHECKPOINT


def work_folder(job: TrainJob) -> Path:
    """All of a run but the LoRA itself."""
    return job.work or job.output.with_suffix(".training")


def keep_prompts(job: TrainJob) -> list[str]:
    """Those of `TrainJob.keep_prompts`. Raises MochiError where there are none."""
    if job.keep_prompts is None:
        if job.settings.keep:
            raise MochiError(f"keep is {job.settings.keep}, but there are no prompts to keep: name a file of them")
        return []
    try:
        lines = [line.strip() for line in job.keep_prompts.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise MochiError(f"{job.keep_prompts}: the prompts to keep cannot be read ({error})") from error
    if not any(lines):
        raise MochiError(f"{job.keep_prompts}: there is no prompt in it; write one a line")
    return [line for line in lines if line]


def data_settings(job: TrainJob, model: ModelDir) -> DataSettings:
    """How clips are cut for a model. Raises MochiError on sizes and lengths that cannot be."""
    sizes, frames = job.sizes or None, job.frames or None
    return DataSettings.of(model.config, sizes, frames, windows=job.windows, seed=job.settings.seed)


def dtypes(job: TrainJob, model: ModelDir, device: torch.device) -> tuple[torch.dtype | None, torch.dtype]:
    """Of the weights, None where they stay as they are; and of the computation."""
    usual = torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = job.placement.dtype
    return chosen, usual if chosen is None or chosen in FLOAT8 else chosen


def usual_size(job: TrainJob, model: ModelDir) -> tuple[int, int, int]:
    """Width, height and frames of clips, before these are known."""
    settings = data_settings(job, model)
    return *settings.sizes[0], max(settings.frames)


def check_hold_out(hold_out: int, clips: int) -> None:
    """Raise MochiError where so many clips cannot be held out of those that there are."""
    if hold_out < 0 or hold_out >= clips:
        raise MochiError(f"hold_out is {hold_out}, but there are {clips} clips, and one at least must be trained on")


def forget(folder: Path) -> None:
    """Remove what an earlier run has left in its folder, and no other files."""
    for pattern in (CHECKPOINT, LOG, "step-*.safetensors", "step-*.mp4", ".*.part"):
        for path in folder.glob(pattern):
            path.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def split(data: TrainingSet, hold_out: int, seed: int) -> tuple[list[Example], list[Example]]:
    """The windows to train on, and those of so many clips that are held out.

    Raises MochiError where nothing is left to train on.
    """
    sources = sorted({example.source for example in data.examples})
    check_hold_out(hold_out, len(sources))
    mixed = torch.randperm(len(sources), generator=generator_of(seed, -3)).tolist()
    away = {sources[i] for i in mixed[:hold_out]}
    held_out = [example for example in data.examples if example.source in away]
    return [example for example in data.examples if example.source not in away], held_out


def largest(examples: Sequence[Example]) -> Example:
    """The one that takes most memory."""
    return max(examples, key=lambda example: math.prod(example.shape))


def training_of(
    job: TrainJob,
    model: ModelDir,
    ranks: Ranks,
    examples: Sequence[Example],
    computing: tuple[torch.dtype | None, torch.dtype],
) -> Training:
    """What takes memory in a run on these examples. computing: as `dtypes` has it."""
    weights, compute = computing
    network = model.dit.plan("dit", weight_dtype=weights, compute_dtype=compute).model
    quants = [layer.quant for layer in network.modules() if isinstance(layer, QuantLinear)]
    return Training(
        config=network.config,
        weights=sum(p.nbytes for p in network.parameters()),
        latents=(job.settings.batch, network.config.channels, *largest(examples).shape),
        settings=job.settings,
        mates=sum(machine == ranks.machines[ranks.rank] for machine in ranks.machines),
        ulysses=ranks.ulysses,
        ranks=ranks.size,
        sharding=job.placement.sharding,
        compute=compute,
        recompute=job.placement.recompute,
        prompt=network.config.text_length,
        dequantizing=0 if all(isinstance(quant, Float8) for quant in quants) else DEQUANTIZING,
    )
