"""Prints what fits on which card, for docs/what-fits.md: `python -m scripts.memory_table`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from mochi.config import PREVIEW
from mochi.geometry import latent_shape
from mochi.memory import CARDS, CONTEXT, FILES, NCCL, SLACK, Fit, Kept, decoding, denoising, fits, weight_bytes
from mochi.memory.fits import SIZES
from mochi.memory.need import readable

WIDTH = 120  # of the page's lines


def main() -> None:
    print(text())


def text() -> str:
    """The table, and what it rests on, in Markdown."""
    return "\n".join((*_table(), "", _notes()))


def _table() -> list[str]:
    head = ["weights", "cards", *(f"{card} GB" for card in CARDS)]
    rows = [_row(kept, cards) for kept in FILES for cards in (1, 2, 4)]
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _row(kept: Kept, cards: int) -> list[str]:
    title = f"{kept.title}: {readable(weight_bytes(PREVIEW.dit, kept))}" if cards == 1 else ""
    return [title, str(cards), *(_cell(fits(kept, card, cards)) for card in CARDS)]


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
    bf16 = weight_bytes(PREVIEW.dit, FILES[0])
    beside = denoising(PREVIEW.dit, bf16, shapes[0]).total - bf16 + CONTEXT
    decode = [readable(decoding(PREVIEW.decoder, shape).total + CONTEXT) for shape in shapes]
    on_two = readable(decoding(PREVIEW.decoder, shapes[0], ranks=2).total + CONTEXT)
    size, smaller = (f"{width} x {height}" for width, height in SIZES)
    paragraphs = (
        f"Denoising at {size}, {frames} frames unless the table says less, computed in bfloat16, one pass of guidance "
        f"after the other: {readable(beside)} beside the weights on one card. *Whole*: the weights stay on the card. "
        "*Offloaded*: ComfyUI streams them from the machine's memory, which has to hold all of them (the first "
        "column); by its own estimate it may begin earlier than it has to. *Sharded*: each card has its share (FSDP2). "
        "*Sharded and offloaded*: the shares are in the machine's memory, together all of the weights and, pinned, up "
        "to half as much again.",
        "The text encoder runs before and the decoder after, when ComfyUI can take the denoiser off the card. Decoding "
        f"takes at least {decode[0]} at {size} ({on_two} on each of two cards) and {decode[1]} at {smaller}, and more "
        "frames at a time with more memory free. Where that is too much for one card, ComfyUI decodes in tiles. The "
        "command line keeps denoiser and decoder on the device, and T5 beside them while it encodes.",
        "GB are 10^9 bytes. The figures are computed by `mochi/memory` from the networks' sizes, and agree with the "
        "tensors that are alive in runs on a CPU (`python -m benchmarks.memory`). Not measured on a GPU are "
        f"{readable(CONTEXT)} for the driver's context, {readable(SLACK)} for the allocator, {readable(NCCL)} for "
        "NCCL's buffers on each of several cards, the three blocks that a sharded card is given room for, and what "
        "kernels take in themselves while they decode: those are allowances.",
    )
    return "\n\n".join(fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


if __name__ == "__main__":
    main()
