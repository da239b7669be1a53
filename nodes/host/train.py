"""The run of a trainer of LoRAs, in processes of its own, in the node that asks for it."""

import os
import time
from pathlib import Path

import comfy.model_management as mm
import folder_paths

from ...mochi.checkpoint import Checkpoint
from ...mochi.errors import MochiError
from ...mochi.model_dir import ModelFiles
from ...mochi.parallel.owner.group import Group
from ...mochi.parallel.owner.work import finish
from ...mochi.parallel.settings import ParallelSettings
from ...mochi.train.job import TrainJob
from ...mochi.train.requests import SERVICE, TrainLora
from ...mochi.train.service import LONGEST
from ...mochi.video.paths import check_path, temporary_beside
from . import files
from .progress import show_text
from .ranks.group import PLACE, groups
from .sockets.lora import FOLDER
from .train_shown import Shown

SUFFIX = ".safetensors"
RUNS = "lora_training"
"""The folder of runs, in ComfyUI's output folder, from which the editor can show their clips. Their checkpoints are not
among the LoRAs, where loaders would list them."""

SAVING = 120.0
"""Seconds for the step in hand and its checkpoint when a run is cancelled."""

LEAVING = 5.0
"""Seconds to leave where no step was taken yet: what is prepared is kept, piece by piece."""


def data_of(data: str) -> Path:
    """What a widget names: a folder or a list of clips, below ComfyUI's input folder where that is not absolute."""
    if not data.strip():
        raise MochiError("data is empty, but must be a folder with clips and their captions")
    return Path(folder_paths.get_input_directory(), data.strip())


def cache_of(data: Path, run: Path) -> Path | None:
    """Where encoded clips are kept: beside the clips, or with the run where nothing can be written there."""
    folder = data if data.is_dir() else data.parent
    return None if os.access(folder, os.W_OK) else run / "cache"


def output_of(name: str) -> tuple[str, Path, Path]:
    """The LoRA of a widget's name: as loaders list it, its file, and the folder of its run.

    Raises MochiError for a name that leaves the folder, or that no file can have there.
    """
    root = Path(os.path.abspath(folder_paths.get_folder_paths(FOLDER)[0]))
    given = name.strip().replace("\\", "/").removesuffix(SUFFIX)
    path = Path(os.path.abspath(root / f"{given}{SUFFIX}"))
    if not path.is_relative_to(root):
        raise MochiError(f"name {name!r} leaves ComfyUI's folder of LoRAs, {root}: write a name inside it")
    if given.rpartition("/")[2] in ("", ".", ".."):
        raise MochiError(f"name is {name!r}, but must be that of the LoRA, such as cross or styles/cross")
    listed = path.relative_to(root)
    # With a suffix of its own: the LoRAs `styles` and `styles/cross` have runs side by side.
    run = Path(os.path.abspath(folder_paths.get_output_directory()), RUNS, listed.with_suffix(".training"))
    for file in (path, run / path.name):
        check_path(file, temporary_beside(file))
    return str(listed), path, run


def files_of(dit: str, t5: str, vae: str, encoder_file: str | None) -> ModelFiles:
    """The files of the loaders' entries. encoder_file: None where the encoder is to be in the VAE's file.

    Raises MochiError where there is no encoder.
    """
    decoder, _ = files.open_vae(vae, encoder_file)
    text_encoder = files.open_file(t5, "t5").path
    return ModelFiles(
        files.open_file(dit, "dit").path,
        text_encoder,
        encoder_of(vae, encoder_file).path,
        None if decoder is None else decoder.path,
        files.tokenizer_for(text_encoder),
    )


def encoder_of(vae: str, encoder_file: str | None) -> Checkpoint:
    """The encoder of a VAE, with which clips are read. Raises MochiError where there is none."""
    _, encoder = files.open_vae(vae, encoder_file)
    if encoder is None:
        raise MochiError(
            f"vae {vae!r} has no encoder, with which clips are read: choose encoder.safetensors, as published, as "
            "encoder_file"
        )
    return encoder


def train_lora(job: TrainJob, settings: ParallelSettings, shown: Shown) -> None:
    """Train a LoRA, or go on with it, on devices of this machine.

    Models of this process and of its group make room. A cancel ends the run with a checkpoint.
    """
    mm.unload_all_models()
    mm.soft_empty_cache()
    groups.close()
    show_text("starting the trainer")
    logs = Path(folder_paths.get_user_directory(), "mochi-parallel")
    # A rank may wait for another one that reads a long clip or a model: ranks are as patient as with a silent one.
    timeout = max(settings.timeout, LONGEST)
    group = Group(settings.devices(), timeout, SERVICE, log_folder=logs, place=PLACE)
    try:
        finish(group.stream(TrainLora(job)), shown.hear, shown.draw)
    except mm.InterruptProcessingException:
        show_text(f"ending after step {shown.step}" if shown.step else "ending")
        group.close(SAVING + 2 * shown.pace if shown.step else LEAVING)
        done = f"cancelled after step {shown.step}; " if shown.step else "cancelled; "
        again = "queued again without restart" if job.restart else "queued again"
        show_text(f"{done}what is done is kept: {again}, it goes on from the last checkpoint")
        raise
    finally:
        group.close()
        folder_paths.filename_list_cache.pop(FOLDER, None)  # loaders list the new file at once


_asked: dict[Path, float] = {}  # by file of a LoRA: when it was last to be made


def asked_at(path: Path) -> float:
    """When a LoRA was last asked for that was not there. It stays the same until the file is gone."""
    if path not in _asked or not path.is_file():
        _asked[path] = time.monotonic()
    return _asked[path]
