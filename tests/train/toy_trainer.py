"""The service of a rank that trains, without a model: steps of a pretended run, its sample clips and its file.

It goes on from where it was cancelled. Captions of the data: "poison" ends the process, "wrong" is an error of the
data.
"""

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from mochi.errors import Cancelled, MochiError
from mochi.train.data.items import find_items
from mochi.train.job import Looked, Stepped, TrainJob
from mochi.train.service import Teller, Trainer
from mochi.video import VideoWriter

STEP = 0.02  # seconds


class Toy(Trainer):
    def _train(self, job: TrainJob, teller: Teller) -> str:
        items, skipped = find_items(job.data)
        fail(items[0].caption)
        assert job.work is not None
        state = job.work / "state.json"
        first = int(state.read_text()) if state.is_file() and not job.restart else 0
        job.work.mkdir(parents=True, exist_ok=True)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        teller.preparing("encoding clips", len(items), len(items))
        for name, reason in skipped:
            teller.said(f"left out: {name}: {reason}")
        for number in range(first + 1, job.settings.steps + 1):
            time.sleep(STEP)
            left = (job.settings.steps - number) * STEP
            step = Stepped(number, job.settings.steps, 1 / number, job.settings.lr, 0.1, STEP, left, 10**9)
            state.write_text(str(number))
            with (job.work / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": number, "loss": step.loss}) + "\n")
            teller.stepped(step)
            if number % job.samples.every == 0:
                teller.looked(look(job, number))
            if teller.cancelled():
                raise Cancelled
        loras = {"blocks.0.attn.qkv_x.lora_A": torch.zeros(1, 192), "blocks.0.attn.qkv_x.lora_B": torch.zeros(576, 1)}
        save_file(loras, job.output, {"training": json.dumps(asdict(job.settings))})
        return str(job.output)


def look(job: TrainJob, number: int) -> Looked:
    assert job.work is not None
    prompts = tuple(job.samples.prompts[: job.samples.count])
    videos = tuple(job.work / f"step-{number:06d}-{i}.mp4" for i in range(1, len(prompts) + 1))
    for i, path in enumerate(videos):
        frames = torch.full((7, 32, 48, 3), 0.5 + i / 4)
        frames[:, :, :, 0] = torch.linspace(0, 1, 7)[:, None, None]
        with VideoWriter(path, 12, (48, 32)) as video:
            video.write(frames)
    return Looked(number, 2 / number if job.samples.hold_out else None, videos, prompts)


def fail(caption: str) -> None:
    if caption == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if caption == "wrong":
        raise MochiError("a planned refusal")


def write_clips(folder: Path, *captions: str) -> None:
    """Clips of noise with these captions, 64 x 64 pixels, 25 frames at 12 a second."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, caption in enumerate(captions):
        frames = torch.rand((25, 8, 8, 3), generator=torch.manual_seed(i)).repeat_interleave(8, 1)
        with VideoWriter(folder / f"clip{i}.mp4", 12, (64, 64)) as video:
            video.write(frames.repeat_interleave(8, 2))
        (folder / f"clip{i}.txt").write_text(caption)
