"""Prints what trains on which card, for docs/training.md: `python -m scripts.training_table`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from textwrap import fill

from mochi.advice import FILES
from mochi.config import PREVIEW
from mochi.geometry import frame_count, latent_count, latent_shape
from mochi.memory import CONTEXT, GB, NCCL, SLACK, decoding, in_gb, weight_bytes
from mochi.train.memory import COPIES, Training
from mochi.train.settings import Recompute
from scripts.memory_table import SIZES, WIDTH

CARDS = (16, 24, 48, 80)
"""Sizes of cards in GB of 10^9 bytes; those that are sold have a little more."""

TITLES = ("bf16, or cast from float32", "fp8, plain or scaled", "GGUF Q8_0", "GGUF Q4_0")

WORTH_A_TRY = 5
"""Latent frames of the shortest clip that is named: 25 frames, about a second."""

KEPT: dict[Recompute, str] = {"all but attention": "", "blocks": ", blocks"}
"""What is recomputed, the fastest first, in words."""

PUBLISHED = {37: "50 GB", 61: "64 GB", 85: "80 GB", 163: "not said"}
"""What the published trainer says that it takes, by frames: on one H100, in bfloat16."""


@dataclass(frozen=True)
class Fit:
    """The longest clip of a size, up to the published length, that a way to train leaves room for."""

    way: str
    width: int
    height: int
    frames: int


def main() -> None:
    print(text())


def text() -> str:
    """The tables, and what they rest on, in Markdown."""
    return "\n".join((*_table(), "", *_beside(), "", _notes()))


def ways(weights: int, cards: int) -> Iterator[tuple[str, Training]]:
    """Ways to train on `cards` cards, the fastest first: in words, and as a run at the published size and length."""
    defaults = PREVIEW.defaults
    run = Training(PREVIEW.dit, weights, latent_shape(defaults.width, defaults.height, defaults.frames), ranks=cards)
    places = [("whole", "replicated", 1), *([("sharded", "sharded", 1)] if cards > 1 else [])]
    places += [("sharded, clips shared", "sharded", cards)] if cards > 1 else []
    places += [("offloaded", "offloaded", 1)]
    places += [("offloaded, clips shared", "offloaded", cards)] if cards > 1 else []
    for words, sharding, ulysses in places:
        for recompute, kept in KEPT.items():
            here = replace(run, sharding=sharding, mates=cards, ulysses=ulysses, recompute=recompute)
            yield words + kept, here


def fits(weights: int, card: int, cards: int) -> list[Fit]:
    """What can be trained so on `cards` cards of `card` GB each; empty where nothing fits.

    The last is the fastest way to train on the longest clip; before it are faster ways that leave room for a shorter
    one. They are at the published size, and at a smaller one only where nothing fits at that.
    """
    for width, height in SIZES:
        found: list[Fit] = []
        for way, run in ways(weights, cards):
            shape = latent_shape(width, height, PREVIEW.defaults.frames)
            count = replace(run, latents=shape).longest(shape[2], card * GB - CONTEXT)
            if count >= WORTH_A_TRY and (not found or frame_count(count) > found[-1].frames):
                found.append(Fit(way, width, height, frame_count(count)))
        if found:
            return found
    return []


def _table() -> list[str]:
    head = ["weights", "cards", *(f"{card} GB" for card in CARDS)]
    rows = [_row(title, cards) for title in TITLES for cards in (1, 2, 4)]
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _row(title: str, cards: int) -> list[str]:
    weights = weight_bytes(PREVIEW.dit, FILES[title])
    head = f"{title}: {in_gb(weights)}" if cards == 1 else ""
    return [head, str(cards), *(_cell(fits(weights, card, cards)) for card in CARDS)]


def _cell(found: Sequence[Fit]) -> str:
    """The fastest way, and the one for the longest clip."""
    return "; ".join(map(_words, [*found[:1], *found[1:][-1:]])) or "no"


def _words(fit: Fit) -> str:
    size = "" if (fit.width, fit.height) == SIZES[0] else f" at {fit.width} x {fit.height}"
    return f"{fit.frames}{size}: {fit.way}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _beside() -> list[str]:
    """The published trainer's figures, and ours for the same clips."""
    head = ("frames of 848 x 480", "published trainer", "here", "here, `--recompute blocks`", "here, from Q4_0")
    rows = [
        (f"{frames}", published, *(in_gb(run.need.total + CONTEXT) for run in _same(frames)))
        for frames, published in PUBLISHED.items()
    ]
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _same(frames: int) -> Iterator[Training]:
    weights = {title: weight_bytes(PREVIEW.dit, FILES[title]) for title in TITLES}
    run = Training(PREVIEW.dit, weights[TITLES[0]], latent_shape(848, 480, frames))
    yield run
    yield replace(run, recompute="blocks")
    yield replace(run, weights=weights["GGUF Q4_0"])


def _notes() -> str:
    defaults = PREVIEW.defaults
    size, most = f"{defaults.width} x {defaults.height}", defaults.frames
    shape = latent_shape(defaults.width, defaults.height, most)
    copy = in_gb(Training(PREVIEW.dit, weight_bytes(PREVIEW.dit, None), shape).need.parts["kept activations"] // 2)
    decode = [in_gb(decoding(PREVIEW.decoder, (*shape[:2], n, *shape[3:])).total) for n in (latent_count(37), shape[2])]
    paragraphs = (
        f"The longest clip of {size} that can be trained on, up to {most} frames, and how: first the fastest way, then "
        "the one for the longest clip. One clip a batch, a LoRA of rank 16 on attention, computed in bfloat16. "
        "*Whole*: each card has all weights, and several cards train on clips of their own. *Sharded*: each card has "
        "its share (FSDP2, `--weights sharded`). *Offloaded*: the weights are in the machine's memory, which has to "
        "hold all of them (the first column), and come block by block (`--weights offloaded`). *Clips shared*: all "
        "cards work on one clip (`--ulysses`, with as many as there are cards). *Blocks*: attention is computed again "
        f"in the backward pass too (`--recompute blocks`), which keeps {copy} less of {most} frames; otherwise all but "
        "attention is. Keeping everything (`--recompute nothing`) is for short clips on large cards: a block keeps "
        f"{COPIES['nothing'].kept:.0f} copies of the clip's tokens in place of one or two.",
        "Before the model is read, the trainer says what a step takes, and on a GPU it ends there if that does not "
        "fit, naming what would. T5 and the encoder run before that too, one after the other, and are gone by then: "
        "T5 takes as much as its file, and the encoder works in pieces. Sample clips are made beside the model, "
        f"without the activations of a step; to decode them takes {decode[0]} for 37 frames of {size} and {decode[1]} "
        f"for {most}. Where that is too much, they are left out and training goes on.",
        "GB are 10^9 bytes. The figures are computed by `mochi/train/memory.py`, and agree within 5 % with the tensors "
        "that are alive in a step (`python -m benchmarks.train_memory`): of small models with values on a CPU, and of "
        "the published one, with all its blocks and at its size, without values. Nothing of it was measured on a GPU. "
        f"{in_gb(CONTEXT)} for the driver's context, {in_gb(SLACK)} for the allocator, {in_gb(NCCL)} for NCCL's "
        "buffers on each of several cards and the three blocks that a sharded card is given room for are allowances. "
        "What attention's kernels take in themselves for their gradients is not seen, but the peak is in the MLP. The "
        "published trainer's figures are its own.",
    )
    return "\n\n".join(fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


if __name__ == "__main__":
    main()
