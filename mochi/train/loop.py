"""The steps of a run to its end, with checkpoints, the log, and looks at the LoRA on the way."""

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import Cancelled, MochiError
from ..model_dir import ModelDir
from .job import Looked, TrainJob, Watcher
from .log import Log
from .looks import Looks
from .network import Network
from .output import save_lora
from .run import Run
from .state import Identity, save_checkpoint


class Loop:
    """Takes steps until a run is done. The first rank alone writes files.

    Args:
        folder: of the run.
        identity: what checkpoints say of it.
    """

    def __init__(self, job: TrainJob, model: ModelDir, folder: Path, identity: Identity, watcher: Watcher):
        self._job, self._model, self._folder = job, model, folder
        self._identity, self._watcher = identity, watcher

    def run(self, run: Run, network: Network, looks: Looks) -> None:
        """Go on with a run, and write its LoRA.

        Raises MochiError where it cannot go on; Cancelled, with a checkpoint saved, once the watcher says so.
        """
        is_first = network.ranks.is_first
        with Log(self._folder, run.optimizer.step) if is_first else nullcontext() as log:
            if run.done and is_first:  # by an earlier start, which may not have come to write the file
                self._save(run, network)
            while not run.done:
                self._step(run, network, looks, log)

    def _step(self, run: Run, network: Network, looks: Looks, log: Log | None) -> None:
        is_first = network.ranks.is_first
        try:
            step, ends = run.step(self._watcher)
        except torch.OutOfMemoryError as error:
            raise MochiError(
                f"{network.ranks.device}: not enough memory for a step ({error}). Choose shorter or smaller clips, a "
                "batch of 1, weights of fewer bits or offloaded, or blocks to be recomputed; the last checkpoint is "
                "kept"
            ) from error
        if log is not None:
            log.tell(step.step, {k: v for k, v in asdict(step).items() if k not in ("step", "steps", "clips")})
        if is_first:
            self._watcher.stepped(step)
        is_due = run.done or step.step % self._job.samples.every == 0
        levels = run.levels() if is_due else {}  # before the checkpoint, after which they are not counted again
        if (is_due or ends) and is_first:
            save_checkpoint(self._folder, run.optimizer, self._identity, run.told)
        if is_due:
            if is_first:
                self._save(run, network)
            look = self._look(run, network, looks)
            if log is not None:
                held_out = {} if look.loss is None else {"held-out loss": look.loss}
                log.tell(step.step, {**levels, **held_out, "videos": [video.name for video in look.videos]})
        if ends and not run.done:
            raise self._cancelled(run)

    def _look(self, run: Run, network: Network, looks: Looks) -> Looked:
        look = Looked(run.optimizer.step, None)
        if looks.wanted:
            try:
                with network.with_weights(run.optimizer.average):
                    look = looks.look(run.optimizer.step)
            except Cancelled as error:  # which tells of the steps of sampling
                raise self._cancelled(run) from error
        if network.ranks.is_first:
            self._watcher.looked(look)
        return look

    def _cancelled(self, run: Run) -> Cancelled:
        step, steps = run.optimizer.step, self._job.settings.steps
        if run.done:
            return Cancelled(f"cancelled while sample clips were made; the LoRA of all {steps} steps is there")
        again = "the same again" + (" without restart" if self._job.restart else "")
        return Cancelled(f"cancelled after step {step} of {steps}; {again} goes on from there")

    def _save(self, run: Run, network: Network) -> None:
        """Write the LoRA as it is now: to its place once the run is done."""
        path = self._job.output if run.done else self._folder / f"step-{run.optimizer.step:06d}.safetensors"
        average, settings = run.optimizer.average, self._job.settings
        layers = {name: (average[f"{name}.lora_A"], average[f"{name}.lora_B"]) for name in network.layers}
        metadata = {
            "base_model": self._model.dit.path.name,
            "variant": self._model.variant[0],
            "steps": str(run.optimizer.step),
            "training": json.dumps(settings.as_dict()),
        }
        save_lora(path, layers, settings.attention, settings.mlp, self._job.format, metadata)
