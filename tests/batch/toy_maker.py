"""A worker's service without a model: the real one, over a pipeline that starts at once, and that some prompts end."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from mochi.batch.requests import LoadPipeline
from mochi.batch.service import VideoMaker
from mochi.errors import Cancelled, MochiError
from mochi.sampling import Denoised, Watch
from mochi.settings import GenerateSettings

STEP = 0.02  # seconds


class ToyPipeline:
    """Frames of noise by the seed.

    Prompts: "poison" kills the worker; "raise" is an error of its code; "hang" does not end the first time, of which
    the file that `negative` names tells; "full" finds no room on the worker's disk; "wrong" is an error of settings.
    "blue" has blue frames, and "turns red" red ones from the fifth on.
    """

    config = SimpleNamespace(name="toy")
    variant, attention = "frames", "none"
    denoiser = SimpleNamespace(dtype=torch.float32, devices=("cpu",))
    passes = {}

    def denoise(self, settings: GenerateSettings, watch: Watch) -> Tensor:
        fail(settings)
        for image in settings.images:
            image.read(settings.width, settings.height)
        assert watch.on_step is not None and watch.cancelled is not None
        shape = (settings.frames, settings.height, settings.width, 3)
        noise = torch.rand(shape, generator=torch.manual_seed(settings.seed))
        for step in range(1, settings.steps + 1):
            if watch.cancelled():
                raise Cancelled
            time.sleep(STEP)
            watch.on_step(Denoised(step, settings.steps, noise, noise))
        if settings.prompt in ("blue", "turns red"):
            noise[:] = torch.tensor([0.1, 0.1, 0.9])
        if settings.prompt == "turns red":
            noise[4:] = torch.tensor([0.9, 0.1, 0.1])
        return noise

    def decode(self, latents: Tensor, as_bytes: bool) -> Iterator[Tensor]:
        assert as_bytes
        for frame in (latents * 255).to(torch.uint8):
            time.sleep(STEP)
            yield frame[None]

    def close(self) -> None:
        pass


def fail(settings: GenerateSettings) -> None:
    prompt = settings.prompt
    if prompt == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == "raise":
        raise RuntimeError("a planned failure")
    if prompt == "wrong":
        raise MochiError("a planned refusal")
    if prompt == "full":
        raise MochiError("the disk is full") from OSError(28, "No space left on device")
    if prompt == "hang" and not Path(settings.negative).exists():
        Path(settings.negative).touch()
        time.sleep(600)


class Toy(VideoMaker):
    """Loads a ToyPipeline, whatever is asked for."""

    def _load(self, request: LoadPipeline) -> str:
        self._pipeline = ToyPipeline()
        return ""
