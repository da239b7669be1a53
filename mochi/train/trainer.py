"""From clips and captions to the file of a LoRA."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..device_memory import memory_free
from ..errors import Cancelled, MochiError
from ..lora import check_lora
from ..model_dir import ModelFiles, find_model, model_of
from .advice import complaint, forecast
from .data import Example, TrainingSet, contact_sheet, prepare
from .data.fingerprint import fingerprint
from .data.items import find_items
from .inputs import (
    check_hold_out,
    data_settings,
    dtypes,
    forget,
    keep_prompts,
    largest,
    split,
    training_of,
    usual_size,
    work_folder,
)
from .job import TrainJob, Watcher
from .looks import Looks, Prompt, sample_settings
from .loop import Loop
from .lora import add_lora
from .network import Network
from .order import generator_of
from .output import check_output, load_start
from .ranks import Ranks
from .run import Run
from .state import FREE, NAME, Identity, check_checkpoint, restore_checkpoint
from .together import together

SHEET = "clips.png"

FORECAST_IS_WITHIN = 1.1
"""Of what is free on a device. A run that is thought to need less is tried."""


def train(job: TrainJob, ranks: Ranks, watcher: Watcher) -> Path:
    """Train a LoRA, or go on with it where an earlier run has ended. Returns its file. All ranks call it alike.

    Raises MochiError on data, a model or settings that cannot be; Cancelled, with a checkpoint saved, once `watcher`
    says so.
    """
    return Trainer(job, ranks, watcher).train()


class Trainer:
    """A run, from the first check to the file."""

    def __init__(self, job: TrainJob, ranks: Ranks, watcher: Watcher):
        self._job, self._ranks, self._watcher = job, ranks, watcher
        self._folder = work_folder(job)
        self._model = model_of(job.model) if isinstance(job.model, ModelFiles) else find_model(job.model)
        self._dtype, self._compute = dtypes(job, self._model, ranks.device)

    def train(self) -> Path:
        self._check()
        with self._locked():
            return self._train()

    def _train(self) -> Path:
        data, examples, held_out = self._prepared()
        self._check_memory(examples)
        identity = self._identity(data.key, len(held_out))
        with together(self._ranks):
            if self._job.restart and self._ranks.is_first:
                forget(self._folder)
        check_checkpoint(self._folder, identity)
        others = [data.features(prompt) for prompt in keep_prompts(self._job)]
        network = self._network()
        run = Run(network, examples, self._model.config.latents, self._job.settings, others)
        run.told = restore_checkpoint(self._folder, run.optimizer) or run.told
        self._check_alike(run.optimizer.step, data.key)
        if run.optimizer.step:
            self._say(f"going on from step {run.optimizer.step}")
        prompts = self._prompts(data, [*held_out, *examples])
        settings = sample_settings(self._job.samples, self._model, largest(examples).bucket)
        looks = Looks(network, self._model, held_out, prompts, settings, self._folder, self._watcher)
        Loop(self._job, self._model, self._folder, identity, self._watcher).run(run, network, looks)
        self._ranks.barrier()
        return self._job.output

    def _check(self) -> None:
        """Raise MochiError on what is known to be wrong before anything takes time."""
        job = self._job
        if job.output.suffix != ".safetensors":
            raise MochiError(f"{job.output}: the file of a LoRA must end in .safetensors")
        if self._compute == torch.float16:
            raise MochiError("gradients run out of the range of float16; choose bfloat16 or float32")
        keep_prompts(job)
        if job.start is not None:
            check_lora(job.start)
        if job.samples.every < 1:
            raise MochiError(f"every is {job.samples.every}, but must be 1 or more")
        sample_settings(job.samples, self._model, usual_size(job, self._model))
        check_hold_out(job.samples.hold_out, len(find_items(job.data)[0]))
        with together(self._ranks):
            if self._ranks.is_first:
                for path in (job.output, self._folder / NAME):
                    check_output(path)
                if job.output.exists() and not (self._folder / NAME).exists() and not job.restart:
                    raise MochiError(
                        f"{job.output}: there is already a LoRA of that name, which is not of a run that could be gone "
                        "on with; choose another name, or restart, which replaces it"
                    )
                self._folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Raise MochiError where another run has the folder. The system opens the lock of a process that ends."""
        lock = FileLock(self._folder / ".lock")
        with together(self._ranks):
            if self._ranks.is_first:
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    raise MochiError(f"{self._folder}: another run trains this LoRA now; wait for its end") from None
        try:
            yield
        finally:
            lock.release()

    def _prepared(self) -> tuple[TrainingSet, Sequence[Example], Sequence[Example]]:
        """All that is prepared; the clips of it to train on, and those held out."""
        job, ranks = self._job, self._ranks
        with together(ranks) as barrier:
            data = prepare(
                job.data,
                data_settings(job, self._model),
                self._model,
                device=ranks.device,
                dtype=self._compute,
                cache=job.cache,
                share=(ranks.rank, ranks.size),
                barrier=barrier,
                report=self._preparing,
                prompts=(*job.samples.prompts, *keep_prompts(job)),
            )
            for name, reason in data.skipped:
                self._say(f"left out: {name}: {reason}")
            examples, held_out = split(data, job.samples.hold_out, job.settings.seed)
            if ranks.is_first:
                contact_sheet(data.examples, self._folder / SHEET)
        self._say(f"{len(examples)} clips to train on, {len(held_out)} held out: see {self._folder / SHEET}")
        return data, examples, held_out

    def _prompts(self, data: TrainingSet, examples: Sequence[Example]) -> list[Prompt]:
        """Of the sample clips: those that are asked for, or captions."""
        samples = self._job.samples
        if samples.prompts:
            return [Prompt(text, data.features(text)) for text in samples.prompts][: samples.count]
        captions = list({example.caption: example for example in examples}.values())[: samples.count]
        return [Prompt(example.caption, example.features()) for example in captions]

    def _check_alike(self, step: int, key: str) -> None:
        """Raise MochiError where ranks have other files than the first one, and would train apart."""
        if len(set(self._ranks.gather((step, key)))) > 1:
            raise MochiError(
                "the processes see different clips or checkpoints: all machines need the same data, cache and output "
                "folders, on a disk that they share"
            )

    def _check_memory(self, examples: Sequence[Example]) -> None:
        """Tell the forecast. Raises MochiError, before weights are read, where a GPU has too little for it."""
        device = self._ranks.device
        with together(self._ranks):
            run = training_of(self._job, self._model, self._ranks, examples, (self._dtype, self._compute))
            self._say(forecast(run))
            free = memory_free(device) if device.type == "cuda" else sys.maxsize
            reason = complaint(run, free)
            if reason is not None and run.need.total > FORECAST_IS_WITHIN * free:
                raise MochiError(reason)
            if reason is not None:
                self._say(f"it may not fit: {reason}")

    def _network(self) -> Network:
        """The frozen model with a new LoRA, or with the one to begin with."""
        job, settings = self._job, self._job.settings
        with together(self._ranks) as barrier:
            model = self._ranks.load(
                self._model.dit,
                self._dtype,
                self._compute,
                job.placement.sharding,
                lambda done, total: self._preparing("reading the model", done, total),
                barrier,
            )
        seed = generator_of(settings.seed, -5).initial_seed()
        layers = add_lora(model, settings.attention, settings.mlp, settings.dropout, seed)
        if job.start is not None:
            load_start(job.start, layers)
        model.train()
        return Network(model, layers, self._ranks, self._compute, job.placement.recompute)

    def _identity(self, clips: str, hold_out: int) -> Identity:
        job, dit = self._job, self._model.dit
        settings = {name: value for name, value in job.settings.as_dict().items() if name not in FREE}
        weights = fingerprint(dit, "dit")[:8]
        model = f"{dit.path.name} (weights {weights}) in {self._dtype or 'the dtype of the file'}"
        kept = hashlib.sha256("\n".join(keep_prompts(job)).encode()).hexdigest()[:8]
        start = None
        if job.start is not None:
            start = f"{job.start.name} ({hashlib.sha256(job.start.read_bytes()).hexdigest()[:8]})"
        return Identity(settings, model, clips, hold_out, kept, self._ranks.groups, start)

    def _say(self, text: str) -> None:
        if self._ranks.is_first:
            self._watcher.said(text)

    def _preparing(self, what: str, done: int, total: int) -> None:
        if self._ranks.is_first:
            self._watcher.preparing(what, done, total)
        if self._watcher.cancelled():
            raise Cancelled(f"cancelled while {what}; what is done is kept")
