"""Prints which of our nodes were tested with which built-in ones: `python -m scripts.mixed_table >workflows/MIXED.md`.

The rows are what `tests/host/mixed` saw when it last ran as a whole.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from textwrap import fill

from scripts.comfyui import CACHE, COMFYUI_VERSION, PROJECT

SEEN = CACHE / "mixed.jsonl"
MIXED = PROJECT / "workflows" / "MIXED.md"
HEAD = ("our nodes", "built-in nodes", "compared with", "one process", "two ranks")


@dataclass(frozen=True)
class Line:
    """A graph that was run. one, two: what was seen in one process, and on two ranks."""

    section: str
    ours: str
    builtin: str
    compared: str
    one: str
    two: str

    @property
    def cells(self) -> tuple[str, ...]:
        return self.ours, self.builtin, self.compared, self.one, self.two


def main() -> None:
    if not SEEN.exists():
        sys.exit("error: nothing was seen yet. Run the tests first: pytest tests/host/mixed")
    print(text(read()))


def write(lines: Iterable[Line], path: Path = SEEN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")


def read(path: Path = SEEN) -> list[Line]:
    return [Line(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def text(lines: Sequence[Line]) -> str:
    """The page, in Markdown."""
    parts = ["# Our nodes among built-in ones", _notes(len(lines))]
    for section, rows in groupby(lines, key=lambda line: line.section):
        parts += [f"## {section}", "\n".join([_line(HEAD), _line(["---"] * len(HEAD)), *map(row_text, rows)])]
    return "\n\n".join(parts)


def row_text(line: Line) -> str:
    return _line(line.cells)


def rows_in(page: str) -> list[tuple[str, ...]]:
    """The cells of the page's rows, without the heads."""
    found = (tuple(line.strip("| ").split(" | ")) for line in page.splitlines() if line.startswith("| "))
    return [cells for cells in found if cells != HEAD and set(cells) != {"---"}]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(count: int) -> str:
    paragraphs = (
        f"{count} graphs that `tests/host/mixed` runs over the API of ComfyUI {COMFYUI_VERSION}, with the tiny model "
        "in float32 on a CPU: each in one process, and with denoiser and VAE on two ranks (Mochi Parallel Settings). "
        "What they are compared with is made in one process, by our nodes alone where the row does not say otherwise.",
        "*Equal to 1e-5*: the relative difference of the latents is not larger; frames are compared as the latents "
        "that Mochi VAE Encode makes of them, to 1e-4. *Refused*: the node ends the run, and its message says what is "
        "quoted. *Differs*: the result is finite, and not the same.",
    )
    return "\n\n".join(fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


if __name__ == "__main__":
    main()
