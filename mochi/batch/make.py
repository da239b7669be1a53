"""One video, made by a pipeline of this process: on the command line, and in a worker."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..dit.cache import in_words
from ..errors import Cancelled
from ..lora.apply import read_loras
from ..model_dir import ModelDir, find_model
from ..parallel.protocol import Counted
from ..safety import Guard, guarded
from ..sampling import Denoised, Watch
from ..settings import GenerateSettings
from ..video import VideoWriter
from .record import fingerprint
from .requests import FramesWritten, LoadPipeline, Made, StepMade

if TYPE_CHECKING:
    from ..pipeline import Pipeline


def open_pipeline(load: LoadPipeline, model: ModelDir | None = None) -> "Pipeline":
    """The pipeline that a request asks for, with its LoRAs. It is to be closed. Raises like `load_pipeline`.

    model: that of the request, where it is open already.
    """
    files = find_model(load.model, load.t5) if model is None else model
    loras = read_loras(load.loras, files.config.dit)

    from ..pipeline import load_pipeline  # imports transformers, which takes seconds

    how = load.dtype, load.device, load.attention, load.compiled, load.parallel, load.variant, load.passes, load.offload
    pipeline = load_pipeline(files, *how)
    try:
        pipeline.use_loras(loras)
    except BaseException:
        pipeline.close()
        raise
    return pipeline


def make_video(
    pipeline: "Pipeline",
    settings: GenerateSettings,
    output: Path,
    quality: int,
    tell: Callable[[Counted], None],
    cancelled: Callable[[], bool] | None = None,
    make_folder: bool = True,
    guard: Guard | None = None,
    seal: Callable[[Path], None] | None = None,
    preview: Callable[[Denoised], None] | None = None,
) -> Made:
    """Makes a video and writes it to `output`; if anything raises, nothing stays.

    Args:
        quality, make_folder, seal: see VideoWriter.
        tell: hears of each step, and of the frames as they are written; first that none is.
        cancelled: is asked between two steps and two batches of frames whether to raise Cancelled.
        guard: looks at the prompt before it is encoded, and at frames before they are written; raises Blocked.
        preview: hears of the latents of each step.
    """
    started = time.monotonic()

    def on_step(denoised: Denoised) -> None:
        if preview is not None:
            preview(denoised)
        tell(StepMade(denoised.step, denoised.steps))

    if guard is not None:
        guard.check_prompt(settings.prompt, settings.as_dict())
    tell(StepMade(0, settings.steps))
    latents = pipeline.denoise(settings, Watch(on_step, cancelled))
    cache = in_words(pipeline.passes) if settings.teacache else ""
    tell(FramesWritten(0, settings.frames))
    size = settings.width, settings.height
    video = VideoWriter(output, settings.fps, size, quality=quality, make_folder=make_folder, seal=seal)

    def put(frames: Tensor) -> None:
        video.write(frames)
        tell(FramesWritten(video.frames, settings.frames))

    with video, guarded(put, guard, settings.as_dict()) as write:
        for frames in pipeline.decode(latents, as_bytes=True):
            if cancelled is not None and cancelled():
                raise Cancelled("cancelled while decoding")
            write(frames)
    facts = {
        "dtype": str(pipeline.denoiser.dtype).removeprefix("torch."),
        "device": ", ".join(map(str, pipeline.denoiser.devices)),
        "attention": pipeline.attention,
        "seconds": round(time.monotonic() - started, 3),
        **fingerprint(video.path),
    }
    return Made(facts, cache)
