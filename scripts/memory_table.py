"""Prints what fits on which card, for docs/what-fits.md: `python -m scripts.memory_table`."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from mochi.advice import FILES, WORTH_A_TRY
from mochi.config import PREVIEW, ModelConfig
from mochi.geometry import frame_count, latent_shape
from mochi.memory import (
    CONTEXT,
    GB,
    NCCL,
    SLACK,
    Denoising,
    decoding,
    in_gb,
    weight_bytes,
)

CARDS = (8, 12, 16, 24, 48, 80)
"""Sizes of cards in GB of 10^9 bytes; those that are sold have a little more."""

ALONE = {"whole": "replicated", "offloaded": "offloaded"}
TOGETHER = {"whole": "replicated", "sharded": "sharded", "sharded and offloaded": "offloaded"}
"""Ways to keep the weights, the fastest first: in words, and as a group's setting."""

SIZES = ((848, 480), (640, 352))

WIDTH = 120  # of the page's lines


@dataclass(frozen=True)
class Fit:
    """The longest video of a size, up to the published length, that a way to keep the weights leaves room for."""

    way: str
    width: int
    height: int
    frames: int


def main() -> None:
    print(text())


def fits(weights: int, card: int, cards: int, model: ModelConfig = PREVIEW) -> list[Fit]:
    """What can be done with so many bytes of weights on `cards` cards of `card` GB each; empty where nothing fits.

    The last is the fastest way to make the longest video; before it are faster ways that leave room for a shorter one.
    They are at the published size, and at a smaller one only where nothing fits at that.
    """
    for width, height in SIZES:
        found: list[Fit] = []
        shape = latent_shape(width, height, model.defaults.frames)
        for way, sharding in (ALONE if cards == 1 else TOGETHER).items():
            count = Denoising(model.dit, weights, shape, cards, sharding).longest(shape[2], card * GB - CONTEXT)
            fit = Fit(way, width, height, frame_count(count))
            if count >= WORTH_A_TRY and (not found or fit.frames > found[-1].frames):
                found.append(fit)
        if found:
            return found
    return []


def text() -> str:
    """The table, and what it rests on, in Markdown."""
    return "\n".join((*_table(), "", _notes()))


def _table() -> list[str]:
    head = ["weights", "cards", *(f"{card} GB" for card in CARDS)]
    rows = [_row(title, cards) for title in FILES for cards in (1, 2, 4)]
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _row(title: str, cards: int) -> list[str]:
    weights = weight_bytes(PREVIEW.dit, FILES[title])
    head = f"{title}: {in_gb(weights)}" if cards == 1 else ""
    return [head, str(cards), *(_cell(fits(weights, card, cards)) for card in CARDS)]


def _cell(found: Sequence[Fit]) -> str:
    return "; ".join(map(_words, found)) or "no"


def _words(fit: Fit) -> str:
    size = "" if (fit.width, fit.height) == SIZES[0] else f" {fit.width} x {fit.height}"
    length = "" if fit.frames == PREVIEW.defaults.frames else f" to {fit.frames} frames"
    return fit.way + size + length


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes() -> str:
    frames = PREVIEW.defaults.frames
    shapes = [latent_shape(*size, frames) for size in SIZES]
    run = Denoising(PREVIEW.dit, weight_bytes(PREVIEW.dit, None), shapes[0])
    beside = run.need.total - run.weights + CONTEXT
    decode = [in_gb(decoding(PREVIEW.decoder, shape).total + CONTEXT) for shape in shapes]
    on_two = in_gb(decoding(PREVIEW.decoder, shapes[0], ranks=2).total + CONTEXT)
    size, smaller = (f"{width} x {height}" for width, height in SIZES)
    paragraphs = (
        f"Denoising at {size}, {frames} frames unless the table says less, computed in bfloat16, one pass of guidance "
        f"after the other: {in_gb(beside)} beside the weights on one card. *Whole*: the weights stay on the card. "
        "*Offloaded*: ComfyUI streams them from the machine's memory, which has to hold all of them (the first "
        "column); by its own estimate it may begin earlier than it has to. *Sharded*: each card has its share (FSDP2). "
        "*Sharded and offloaded*: the shares are in the machine's memory, together all of the weights and, pinned, up "
        "to half as much again.",
        "The text encoder runs before and the decoder after, when ComfyUI can take the denoiser off the card. Decoding "
        f"takes at least {decode[0]} at {size} ({on_two} on each of two cards) and {decode[1]} at {smaller}, and more "
        "frames at a time with more memory free. Where that is too much for one card, ComfyUI decodes in tiles. The "
        "command line keeps denoiser and decoder on the device, and T5 beside them while it encodes.",
        "GB are 10^9 bytes. The figures are computed by `mochi/memory.py` from the networks' sizes, and agree with the "
        "tensors that are alive in runs on a CPU (`python -m benchmarks.memory`). Not measured on a GPU are "
        f"{in_gb(CONTEXT)} for the driver's context, {in_gb(SLACK)} for the allocator, {in_gb(NCCL)} for "
        "NCCL's buffers on each of several cards, the three blocks that a sharded card is given room for, and what "
        "kernels take in themselves while they decode: those are allowances.",
    )
    return "\n\n".join(fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


if __name__ == "__main__":
    main()
