"""From clips and captions to the file of a LoRA."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..device_memory import give_back, memory_free
from ..errors import Cancelled, MochiError
from ..lora import check_lora
from ..model_dir import ModelFiles, find_model, model_of
from ..text import load_prompt_encoder
from ..text.visit import visiting
from .advice import complaint, forecast
from .data import Example, contact_sheet, prepare
from .inputs import data_settings, dtypes, keep_prompts, largest, split, training_of, work_folder
from .job import Looked, TrainJob, Watcher
from .log import Log
from .looks import Looks, Prompt, sample_settings
from .lora import add_lora
from .network import Network
from .order import generator_of
from .output import check_output, load_start, save_lora
from .ranks import Ranks
from .run import Run
from .state import FREE, NAME, Identity, restore_checkpoint, save_checkpoint
from .together import together

SHEET = "clips.png"


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
        examples, held_out, key = self._prepared()
        self._check_memory(examples)
        prompts, others = self._prompts([*held_out, *examples])
        network = self._network()
        run = Run(network, examples, self._model.config.latents, self._job.settings, others)
        identity = self._identity(key)
        run.seconds = restore_checkpoint(self._folder, run.optimizer, identity) or 0.0
        self._ranks.barrier()
        if run.optimizer.step:
            self._say(f"going on from step {run.optimizer.step}")
        size = largest(examples).bucket
        settings = sample_settings(self._job.samples, self._model, size, prompts[0].text if prompts else "")
        looks = Looks(network, self._model, held_out, prompts, settings, self._folder, self._watcher)
        log = Log(self._folder, run.optimizer.step) if self._ranks.is_first else None
        try:
            self._steps(run, network, looks, identity, log)
        finally:
            if log is not None:
                log.close()
        if self._ranks.is_first:
            self._save(self._job.output, run, network)
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
        if job.samples.prompts:
            sample_settings(job.samples, self._model, self._usual_size(), job.samples.prompts[0])
        with together(self._ranks):
            if self._ranks.is_first:
                for path in (job.output, self._folder / NAME):
                    check_output(path)
                if job.restart and self._folder.is_dir():
                    shutil.rmtree(self._folder)

    def _prepared(self) -> tuple[Sequence[Example], Sequence[Example], str]:
        """Clips to train on, those held out, and what tells them from others."""
        job, ranks = self._job, self._ranks
        choice = data_settings(job, self._model)
        with together(ranks) as barrier:
            data = prepare(
                job.data,
                choice,
                self._model,
                device=ranks.device,
                dtype=self._compute,
                cache=job.cache,
                share=(ranks.rank, ranks.size),
                barrier=barrier,
                report=self._preparing,
            )
        for name, reason in data.skipped:
            self._say(f"left out: {name}: {reason}")
        if ranks.is_first:
            contact_sheet(data.examples, self._folder / SHEET)
        examples, held_out = split(data, job.samples.hold_out, job.settings.seed)
        self._say(f"{len(examples)} clips to train on, {len(held_out)} held out: see {self._folder / SHEET}")
        others = hashlib.sha256("\n".join(keep_prompts(job)).encode()).hexdigest()[:8]
        return examples, held_out, f"{data.key}, {len(held_out)} held out, {others} to keep"

    def _prompts(self, examples: Sequence[Example]) -> tuple[list[Prompt], list[Tensor]]:
        """Of the sample clips, and those to keep, as the text encoder reads them."""
        samples, others = self._job.samples, keep_prompts(self._job)
        texts = list(samples.prompts or dict.fromkeys(example.caption for example in examples))[: samples.count]
        if not (texts or others):
            return [], []
        device = self._ranks.device
        text = load_prompt_encoder(self._model.text_encoder, self._model.tokenizer, compute=self._compute)
        with visiting(text.model, device):
            read = {prompt: tuple(t.cpu() for t in text([prompt])) for prompt in dict.fromkeys([*texts, *others, ""])}
        del text
        give_back(device)
        shown = [Prompt(prompt, *map(torch.cat, zip(read[prompt], read[""], strict=True))) for prompt in texts]
        return shown, [features[0][mask[0]] for features, mask in map(read.__getitem__, others)]

    def _check_memory(self, examples: Sequence[Example]) -> None:
        """Tell the forecast. Raises MochiError, before weights are read, where a GPU has too little for it."""
        device = self._ranks.device
        with together(self._ranks):
            run = training_of(self._job, self._model, self._ranks, examples, (self._dtype, self._compute))
            self._say(forecast(run))
            reason = complaint(run, memory_free(device)) if device.type == "cuda" else None
            if reason is not None:
                raise MochiError(reason)

    def _network(self) -> Network:
        """The frozen model with a new LoRA, or with the one to begin with."""
        job, settings = self._job, self._job.settings
        with together(self._ranks):
            model = self._ranks.load(
                self._model.dit,
                self._dtype,
                self._compute,
                job.placement.sharding,
                lambda done, total: self._preparing("reading the model", done, total),
            )
        seed = generator_of(settings.seed, -5).initial_seed()
        layers = add_lora(model, settings.attention, settings.mlp, settings.dropout, seed)
        if job.start is not None:
            load_start(job.start, layers)
        model.train()
        return Network(model, layers, self._ranks, self._compute, job.placement.recompute)

    def _identity(self, key: str) -> Identity:
        settings = {name: value for name, value in self._job.settings.as_dict().items() if name not in FREE}
        dit, start = self._model.dit, self._job.start
        model = f"{dit.path.name} of {dit.nbytes} bytes in {self._dtype or 'the dtype of the file'}"
        return Identity(settings, model, key, self._ranks.groups, None if start is None else start.name)

    def _steps(self, run: Run, network: Network, looks: Looks, identity: Identity, log: Log | None) -> None:
        every = self._job.samples.every
        while not run.done:
            try:
                step, ends = run.step(self._watcher)
            except torch.OutOfMemoryError as error:
                raise MochiError(
                    f"{self._ranks.device}: not enough memory for a step ({error}). Choose shorter or smaller clips, a "
                    "batch of 1, weights of fewer bits or offloaded, or blocks to be recomputed; the last checkpoint "
                    "is kept"
                ) from error
            if log is not None:
                log.tell(step.step, {k: v for k, v in asdict(step).items() if k not in ("step", "steps", "clips")})
            if self._ranks.is_first:
                self._watcher.stepped(step)
            is_due = run.done or step.step % every == 0
            if (is_due or ends) and self._ranks.is_first:
                save_checkpoint(self._folder, run.optimizer, identity, run.seconds)
            if is_due:
                self._look(run, network, looks, log)
            if ends and not run.done:
                raise Cancelled(f"cancelled after step {step.step} of {step.steps}; the same again goes on from there")

    def _look(self, run: Run, network: Network, looks: Looks, log: Log | None) -> None:
        step = run.optimizer.step
        if self._ranks.is_first and not run.done:
            self._save(self._folder / f"step-{step:06d}.safetensors", run, network)
        look = Looked(step, None)
        if looks.wanted:
            with network.with_weights(run.optimizer.average):
                look = looks.look(step)
        if log is not None:
            held_out = {} if look.loss is None else {"held-out loss": look.loss}
            log.tell(step, {**run.levels(), **held_out, "videos": [video.name for video in look.videos]})
        if self._ranks.is_first:
            self._watcher.looked(look)

    def _save(self, path: Path, run: Run, network: Network) -> None:
        """Write the LoRA as it is now."""
        average, settings = run.optimizer.average, self._job.settings
        layers = {name: (average[f"{name}.lora_A"], average[f"{name}.lora_B"]) for name in network.layers}
        metadata = {
            "base_model": self._model.dit.path.name,
            "variant": self._model.variant[0],
            "steps": str(run.optimizer.step),
            "training": json.dumps(settings.as_dict()),
        }
        save_lora(path, layers, settings.attention, settings.mlp, self._job.format, metadata)

    def _say(self, text: str) -> None:
        if self._ranks.is_first:
            self._watcher.said(text)

    def _preparing(self, what: str, done: int, total: int) -> None:
        if self._ranks.is_first:
            self._watcher.preparing(what, done, total)
        if self._watcher.cancelled():
            raise Cancelled(f"cancelled while {what}; what is done is kept")

    def _usual_size(self) -> tuple[int, int, int]:
        defaults = self._model.config.defaults
        width, height = self._job.sizes[0] if self._job.sizes else (defaults.width, defaults.height)
        return width, height, max(self._job.frames, default=defaults.frames)
