"""Training of a LoRA on a person's own clips."""

import time
from typing import Any

from comfy_api.latest import io

from ..mochi.checkpoint import Checkpoint
from ..mochi.errors import MochiError
from ..mochi.geometry import PATCH, SPACE, check_frames, check_size
from ..mochi.model_dir import ModelFiles, check_together, model_of
from ..mochi.parallel.settings import ParallelSettings
from ..mochi.train.data.items import find_items
from ..mochi.train.job import Placement, Samples, TrainJob
from ..mochi.train.settings import LEVELS, RECOMPUTE, Rank, TrainSettings
from . import widgets
from .host import files
from .host.checks import ABSENT, check_choice, check_range, complaint
from .host.progress import show_text
from .host.sockets.dtypes import chosen_dtype
from .host.train import asked_at, cache_of, data_of, encoder_of, files_of, output_of, train_lora
from .host.train_shown import Shown
from .loaders import IN_FILE
from .parallel import check_gpus, parallel_settings
from .train_inputs import AUTO, DTYPES, FORMATS, MAX_RANK, USUAL, USUAL_KEEP, training_inputs
from .widgets import MAX_FRAMES, MAX_SIZE


class TrainLoRA(widgets.Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return widgets.schema(
            "MochiParallelTrainLoRA",
            "Mochi Train LoRA",
            "Trains a LoRA on your clips, and shows the loss and sample clips while it runs. After a cancel it goes on "
            "when it is queued again.",
            found_as=("train lora", "fine-tune", "finetune", "dreambooth", "trainer"),
            inputs=training_inputs(),
            outputs=[
                io.String.Output(display_name="lora", tooltip="The name of the LoRA, as Load LoRA (Mochi) lists it."),
                io.String.Output(display_name="path", tooltip="Of its file."),
                io.String.Output(
                    display_name="report", tooltip="Steps, loss and time, and the clips that are left out."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        data: str | None = None,
        name: str | None = None,
        dit: str | None = None,
        t5: str | None = None,
        vae: str | None = None,
        encoder_file: str | None = None,
        rank: int | None = None,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        gpus: str = "1",
        parallel: object = ABSENT,
        mlp_rank: int = 0,
        levels: str = LEVELS[0],
        dtype: str = "auto",
        format: str = FORMATS[0],
        recompute: str = Placement.recompute,
    ) -> bool | str:
        found = complaint(lambda *given: find_items(data_of(*given)), data, widget="data")
        found = found or complaint(output_of, name, widget="name")
        found = found or complaint(files.check_file, dit, "dit", False, widget="dit")
        found = found or complaint(files.check_file, t5, "t5", False, widget="t5")
        found = found or complaint(_check_width, dit, t5, widget="t5")
        found = found or complaint(_check_vae, vae, encoder_file, widget="vae")
        found = found or complaint(_check_ranks, rank, mlp_rank, widget="rank")
        found = found or complaint(_check_clips, frames, width, height)
        found = found or complaint(_check_choices, levels, dtype, format, recompute)
        return found or complaint(check_gpus, gpus, parallel, widget="gpus") or True

    @classmethod
    def fingerprint_inputs(cls, data: str = "", name: str = "", **_: Any) -> Any:
        """Of the clips and captions as they are, and of a LoRA that is there: what is gone is trained again."""
        try:
            items, _skipped = find_items(data_of(data))
            clips = [(item.name, item.caption, item.path.stat().st_mtime_ns) for item in items]
            return str(clips), asked_at(output_of(name)[1])
        except (MochiError, OSError):
            return time.monotonic()

    @classmethod
    def execute(
        cls,
        data: str,
        name: str,
        dit: str,
        t5: str,
        vae: str,
        encoder_file: str,
        steps: int,
        learning_rate: float,
        rank: int,
        alpha: float,
        frames: int,
        width: int,
        height: int,
        batch: int,
        sample_every: int,
        sample_prompts: str,
        seed: int,
        restart: bool,
        gpus: str = "1",
        parallel: ParallelSettings | None = None,
        mlp_rank: int = 0,
        dropout: float = 0.0,
        levels: str = LEVELS[0],
        dtype: str = "auto",
        format: str = FORMATS[0],
        accumulate: int = 1,
        warmup: int = AUTO,
        ema: float = 0.0,
        hold_out: int = 0,
        windows: int = 1,
        recompute: str = Placement.recompute,
        keep_prompts: str = "",
        keep: float = USUAL_KEEP,
    ) -> io.NodeOutput:
        started = time.monotonic()
        listed, path, run = output_of(name)
        chosen = parallel_settings(gpus, parallel)
        model = files_of(dit, t5, vae, None if encoder_file == IN_FILE else encoder_file)
        prompts, others = lines_of(sample_prompts), lines_of(keep_prompts)
        shown = Shown(run)
        settings: dict[str, Any] = {"levels": levels, "dropout": dropout, "ema": ema, "seed": seed, "batch": batch}
        placement: dict[str, Any] = {"dtype": chosen_dtype(dtype, DTYPES), "recompute": recompute}
        job = TrainJob(
            data=data_of(data),
            output=path,
            work=run,
            cache=cache_of(data_of(data), run),
            model=model,
            settings=TrainSettings(
                steps=steps,
                lr=learning_rate,
                warmup=min(USUAL.warmup, steps // 10) if warmup == AUTO else warmup,
                accumulate=accumulate,
                attention=Rank(rank, alpha or float(max(1, rank))),
                mlp=Rank(mlp_rank, float(max(1, mlp_rank))),
                keep=keep if others else 0.0,
                **settings,
            ),
            sizes=sizes_of(width, height, model),
            frames=(frames,) if frames else (),
            windows=windows,
            samples=samples_of(sample_every, prompts, hold_out, model),
            placement=Placement(sharding=sharding_of(chosen, model), ulysses=chosen.ulysses_degree or 1, **placement),
            format=format,  # pyright: ignore[reportArgumentType]  # one of FORMATS, which the host has checked
            restart=restart,
            keep_prompts=shown.written("keep.txt", others) if others else None,
        )
        train_lora(job, chosen, shown)
        text = shown.report(listed, time.monotonic() - started)
        show_text(text)
        return io.NodeOutput(listed, str(path), text, ui=shown.results())


def lines_of(text: str) -> tuple[str, ...]:
    """The prompts of a widget, one a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def sizes_of(width: int, height: int, model: ModelFiles) -> tuple[tuple[int, int], ...]:
    """The size of clips, with that of the model where only one side is chosen; none where neither is."""
    if not (width or height):
        return ()
    own = model_of(model).config.defaults
    return ((width or own.width, height or own.height),)


def samples_of(every: int, prompts: tuple[str, ...], hold_out: int, model: ModelFiles) -> Samples:
    """What is looked at on the way. No clips without a decoder, which makes their frames."""
    usual = Samples()
    count = (len(prompts) or usual.count) if every and model.decoder is not None else 0
    return Samples(every=every or usual.every, prompts=prompts if count else (), count=count, hold_out=hold_out)


def sharding_of(chosen: ParallelSettings, model: ModelFiles) -> str:
    """How GPUs hold the frozen model. Raises MochiError for GPUs of other machines."""
    if chosen.cluster:
        raise MochiError(
            f"parallel asks for the machines of a cluster ({chosen.cluster}), but a LoRA is trained on the GPUs of "
            "this machine: leave `cluster` empty in Mochi Parallel Settings"
        )
    sharding = chosen.sharding_for(Checkpoint.open(model.dit).nbytes)
    alone = len(chosen.devices()) == 1  # which shares its part with nobody
    return "offloaded" if alone and sharding == "sharded" else sharding


def _check_width(dit: str, t5: str) -> None:
    check_together(files.open_file(dit, "dit"), files.open_file(t5, "t5"))


def _check_vae(vae: str, encoder_file: str) -> None:
    """Raise MochiError unless there are a whole VAE and its encoder."""
    if encoder_file == IN_FILE:
        files.check_vae(vae)
        encoder_of(vae, None)
    else:
        files.check_decoder(vae)
        files.check_encoder(encoder_file)


def _check_clips(frames: int, width: int, height: int) -> None:
    for name, value, most in (("frames", frames, MAX_FRAMES), ("width", width, MAX_SIZE), ("height", height, MAX_SIZE)):
        check_range(name, value, 0, most)
    if frames:
        check_frames(frames)
    check_size(width or SPACE * PATCH, height or SPACE * PATCH)


def _check_choices(levels: str, dtype: str, format: str, recompute: str) -> None:
    check_choice("levels", levels, LEVELS)
    check_choice("dtype", dtype, DTYPES)
    check_choice("format", format, FORMATS)
    check_choice("recompute", recompute, RECOMPUTE)


def _check_ranks(rank: int, mlp_rank: int) -> None:
    for name, value in (("rank", rank), ("mlp_rank", mlp_rank)):
        check_range(name, value, 0, MAX_RANK)
    if not (rank or mlp_rank):
        raise MochiError("rank is 0, and mlp_rank too: there is nothing to train")
