"""The command `train-lora`: a LoRA from clips and their captions."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, get_args

from tqdm import tqdm

from ..errors import Cancelled
from ..memory import in_gb
from ..parallel.settings import SHARDINGS
from ..train.job import Format, Looked, Placement, Samples, Stepped, TrainJob
from ..train.settings import LEVELS, RECOMPUTE, Rank, TrainSettings
from .model_options import DTYPES, check_device

if TYPE_CHECKING:
    from ..train.ranks import Ranks

USUAL = TrainSettings()
LOOK = Samples()


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train-lora",
        description="Trains a LoRA. The same command goes on with a run that was cancelled or killed.",
        epilog="Several GPUs: torchrun --nproc-per-node 4 -m mochi train-lora ... Each trains on clips of its own, "
        "unless --ulysses says otherwise.",
    )
    parser.set_defaults(run=train)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder of clips and pictures, each beside a .txt with its caption; or a .csv or .jsonl of path and "
        "caption",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="the LoRA, .safetensors; all else goes beside it")
    add("--model-dir", type=Path, metavar="DIR", help="weights; without it, the built-in tiny model")
    add("--steps", type=int, default=USUAL.steps, help="of the optimiser (default: %(default)s)")
    add("--format", choices=get_args(Format), default="published", help="names of the file (default: %(default)s)")
    add("--start", type=Path, metavar="FILE", help="a LoRA to begin with")
    add("--restart", action="store_true", help="begin anew where an earlier run of this output could go on")

    add = parser.add_argument_group("clips").add_argument
    add("--size", type=_size, action="append", default=[], metavar="WxH", help="in pixels; several make buckets")
    add("--frames", type=int, action="append", default=[], help="6k + 1 of them; several make buckets")
    add("--windows", type=int, default=1, help="that are taken of a long clip (default: %(default)s)")
    add("--cache", type=Path, metavar="DIR", help="for encoded clips (default: beside the data)")

    add = parser.add_argument_group("the LoRA").add_argument
    add("--rank", type=int, default=USUAL.attention.rank, help="in attention (default: %(default)s)")
    add("--alpha", type=float, help="strength is alpha / rank (default: as the rank)")
    add("--mlp-rank", type=int, default=0, help="in the MLPs (default: 0, none)")
    add("--mlp-alpha", type=float, help="(default: as the rank)")
    add("--dropout", type=float, default=USUAL.dropout, help="(default: %(default)s)")

    add = parser.add_argument_group("training").add_argument
    add("--batch", type=int, default=USUAL.batch, help="clips at a time (default: %(default)s)")
    add("--accumulate", type=int, default=USUAL.accumulate, help="batches of a step (default: %(default)s)")
    add("--lr", type=float, default=USUAL.lr, help="learning rate (default: %(default)s)")
    add("--warmup", type=int, help="steps up to that rate (default: 200, a tenth of the steps at most)")
    add("--weight-decay", type=float, default=USUAL.weight_decay, help="(default: %(default)s)")
    add("--clip", type=float, default=USUAL.clip, help="the longest gradient; 0: any (default: %(default)s)")
    add("--ema", type=float, default=USUAL.ema, help="of the weights, such as 0.99; 0: none (default: %(default)s)")
    add("--levels", choices=LEVELS, default=USUAL.levels, help="of noise (default: %(default)s)")
    add("--level-mean", type=float, default=USUAL.level_mean, help="of logit-normal (default: %(default)s)")
    add("--level-deviation", type=float, default=USUAL.level_deviation, help="of logit-normal (default: %(default)s)")
    add("--caption-dropout", type=float, default=USUAL.caption_dropout, help="(default: %(default)s)")
    add(
        "--keep-prompts",
        type=Path,
        metavar="FILE",
        help="prompts, one a line, for which the model is held to what it was",
    )
    add("--keep", type=float, metavar="SHARE", help="of clips that are for them (default: 0.25 where there are such)")
    add("--seed", type=int, default=USUAL.seed, help="(default: %(default)s)")

    add = parser.add_argument_group("looks on the way").add_argument
    add("--every", type=int, default=LOOK.every, help="steps between checkpoints and looks (default: %(default)s)")
    add("--samples", type=int, default=LOOK.count, help="sample clips; 0: none (default: %(default)s)")
    add("--sample-prompt", action="append", default=[], metavar="PROMPT", help="(default: captions of clips)")
    add("--sample-steps", type=int, metavar="STEPS", help="(default: the model's own)")
    add("--sample-cfg", type=float, metavar="CFG", help="(default: the model's own)")
    add("--sample-size", type=_size, metavar="WxH", help="(default: that of the clips)")
    add("--sample-frames", type=int, metavar="FRAMES", help="(default: that of the clips)")
    add("--hold-out", type=int, default=0, metavar="CLIPS", help="for a loss on clips that are not trained on")

    add = parser.add_argument_group("memory and devices").add_argument
    add("--device", help="such as cpu or cuda:1 (default: the GPU if there is one)")
    add("--dtype", choices=[name for name in DTYPES if name != "float16"], help="of the frozen weights")
    add("--weights", choices=SHARDINGS, default="replicated", help="what each GPU holds (default: %(default)s)")
    add("--ulysses", type=int, default=1, metavar="GPUS", help="that share a clip (default: %(default)s)")
    add(
        "--recompute",
        choices=[name.replace(" ", "-") for name in RECOMPUTE],
        default=Placement.recompute.replace(" ", "-"),
        help="what the backward pass computes again, to keep less (default: %(default)s)",
    )


def job_of(options: argparse.Namespace) -> TrainJob:
    """What a command line asks for. Raises MochiError on settings that cannot be."""
    rank, mlp_rank = options.rank, options.mlp_rank
    settings = TrainSettings(
        steps=options.steps,
        batch=options.batch,
        accumulate=options.accumulate,
        lr=options.lr,
        weight_decay=options.weight_decay,
        warmup=min(USUAL.warmup, options.steps // 10) if options.warmup is None else options.warmup,
        clip=options.clip,
        ema=options.ema,
        attention=Rank(rank, float(max(rank, 1) if options.alpha is None else options.alpha)),
        mlp=Rank(mlp_rank, float(max(mlp_rank, 1) if options.mlp_alpha is None else options.mlp_alpha)),
        dropout=options.dropout,
        levels=options.levels,
        level_mean=options.level_mean,
        level_deviation=options.level_deviation,
        caption_dropout=options.caption_dropout,
        keep=(0.25 if options.keep_prompts else 0.0) if options.keep is None else options.keep,
        seed=options.seed,
    )
    width, height = options.sample_size or (None, None)
    samples = Samples(
        every=options.every,
        prompts=tuple(options.sample_prompt),
        count=max(options.samples, len(options.sample_prompt)) if options.samples else 0,
        hold_out=options.hold_out,
        steps=options.sample_steps,
        cfg=options.sample_cfg,
        width=width,
        height=height,
        frames=options.sample_frames,
    )
    placement = Placement(
        device=options.device,
        dtype=DTYPES.get(options.dtype),
        sharding=options.weights,
        ulysses=options.ulysses,
        recompute=options.recompute.replace("-", " "),
    )
    return TrainJob(
        data=options.data,
        output=options.output,
        model=options.model_dir,
        settings=settings,
        sizes=tuple(options.size),
        frames=tuple(options.frames),
        windows=options.windows,
        cache=options.cache,
        samples=samples,
        placement=placement,
        format=options.format,
        restart=options.restart,
        start=options.start,
        keep_prompts=options.keep_prompts,
    )


def train(options: argparse.Namespace) -> None:
    """Trains a LoRA. Ctrl+C, or a SIGTERM, ends it after the step in hand, with a checkpoint."""
    check_device(options.device)
    job = job_of(options)

    from ..train.ranks import Ranks
    from ..train.trainer import train as run  # imports transformers, which takes seconds

    ranks = Ranks.join(options.device, options.ulysses)
    try:
        with Terminal(ranks) as terminal:
            path = run(job, ranks, terminal)
        if ranks.is_first:
            print(path, flush=True)
    except Cancelled as error:
        if ranks.is_first:
            print(error, file=sys.stderr)
        raise KeyboardInterrupt from error
    finally:
        ranks.close()


class Terminal:
    """A Watcher that shows bars where there is a terminal, and says what matters. An interrupt ends the run.

    The second one ends it at once.
    """

    def __init__(self, ranks: "Ranks"):
        self._shows, self._interrupted = ranks.is_first, False
        self._training: tqdm | None = None
        self._other: tqdm | None = None
        self._title = ""
        self._last: Stepped | None = None
        self._losses: list[float] = []
        self._before: dict[int, Any] = {}

    def said(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def preparing(self, what: str, done: int, total: int) -> None:
        if self._other is None or what != self._title:
            self._close_other()
            self._title = what
            self._other = tqdm(desc=what, total=total, leave=self._training is None, disable=None)
        self._other.update(done - self._other.n)

    def stepped(self, step: Stepped) -> None:
        self._close_other()
        if self._training is None:
            self._training = tqdm(desc="training", total=step.steps, initial=step.step - 1, unit="step", disable=None)
        self._training.update(step.step - self._training.n)
        self._training.set_postfix(loss=f"{step.loss:.4f}")
        self._last = step
        self._losses.append(step.loss)

    def looked(self, look: Looked) -> None:
        self._close_other()
        if self._last is not None:
            self.said(_in_words(self._last, self._losses, look))
            self._losses.clear()
        for video, prompt in zip(look.videos, look.prompts, strict=True):
            self.said(f"  {video}: {prompt}")

    def cancelled(self) -> bool:
        return self._interrupted

    def __enter__(self) -> "Terminal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._close_other()
        if self._training is not None:
            self._training.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._shows:
            self.said("ending after this step; once more ends at once, and loses what is behind the last checkpoint")

    def _close_other(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None


def _in_words(step: Stepped, losses: Sequence[float], look: Looked) -> str:
    """How far a run is, such as `step 200 of 2000: loss 0.4312, 1.7 s a step, 51 min left`."""
    held_out = "" if look.loss is None else f", held out {look.loss:.4f}"
    memory = f", {in_gb(step.memory)} of memory" if step.memory else ""
    left = f", {round(step.left)} s left" if step.left < 120 else f", {round(step.left / 60)} min left"
    loss = sum(losses) / len(losses) if losses else step.loss
    words = f"step {step.step} of {step.steps}: loss {loss:.4f}{held_out}, {step.seconds:.2g} s a step{memory}"
    return words + (left if step.step < step.steps else "")


def _size(text: str) -> tuple[int, int]:
    width, sign, height = text.lower().partition("x")
    if not (sign and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write width and height in pixels, such as 848x480")
    return int(width), int(height)
