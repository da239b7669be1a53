"""Writes workflows/MIXED.md, which of our nodes were tested with which built-in ones: `python -m scripts.mixed_table`.

A row is a graph of `tests/host/mixed`, a column a version of ComfyUI. The column of the version with which these tests
last ran as a whole is written anew, and the others stay as they are.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from textwrap import fill

from packaging.version import Version

from scripts.comfyui import CACHE, PROJECT

SEEN = CACHE / "mixed.jsonl"
MIXED = PROJECT / "workflows" / "MIXED.md"
HEAD = ("our nodes", "built-in nodes", "compared with")
HOST = "ComfyUI "
NOT_RUN = "not run"

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """A graph that was run. seen: version of ComfyUI -> what was seen there."""

    section: str
    ours: str
    builtin: str
    compared: str
    seen: dict[str, str]

    @property
    def title(self) -> Cells:
        return self.ours, self.builtin, self.compared


def main() -> None:
    if not SEEN.exists():
        sys.exit("error: nothing was seen yet. Run the tests first: pytest tests/host/mixed")
    page = MIXED.read_text(encoding="utf-8") if MIXED.exists() else ""
    MIXED.write_text(text(with_other_hosts(read(SEEN), page)), encoding="utf-8")
    print(MIXED)


def write(lines: Iterable[Line], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")


def read(path: Path) -> list[Line]:
    return [Line(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def in_words(one: str, two: str) -> str:
    """What was seen in one process and on two ranks."""
    return one if one == two else f"{one}; on two ranks {two}"


def with_other_hosts(lines: Iterable[Line], page: str) -> list[Line]:
    """The lines of one version, with what the page says of others."""
    before = rows_in(page)
    return [replace(line, seen=before.get(line.title, {}) | line.seen) for line in lines]


def text(lines: Sequence[Line]) -> str:
    """The page, in Markdown."""
    hosts = sorted({host for line in lines for host in line.seen}, key=Version)
    head = (*HEAD, *(HOST + host for host in hosts))
    parts = ["# Our nodes among built-in ones", _notes(len(lines), hosts)]
    for section, rows in groupby(lines, key=lambda line: line.section):
        cells = [(*line.title, *(line.seen.get(host, NOT_RUN) for host in hosts)) for line in rows]
        parts += [f"## {section}", "\n".join(map(_row, [head, ["---"] * len(head), *cells]))]
    return "\n\n".join(parts) + "\n"


def rows_in(page: str) -> dict[Cells, dict[str, str]]:
    """The page's rows: title -> version of ComfyUI -> what was seen."""
    found: dict[Cells, dict[str, str]] = {}
    hosts: list[str] = []
    for line in page.splitlines():
        cells = tuple(line.strip("| ").split(" | ")) if line.startswith("| ") else ()
        title, columns = cells[: len(HEAD)], cells[len(HEAD) :]
        if title == HEAD:
            hosts = [column.removeprefix(HOST) for column in columns]
        elif cells and set(cells) != {"---"}:
            found[title] = dict(zip(hosts, columns, strict=True))
    return found


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(count: int, hosts: Sequence[str]) -> str:
    paragraphs = (
        f"{count} graphs that `tests/host/mixed` runs over the API of ComfyUI {' and '.join(hosts)}, with the tiny "
        "model in float32 on a CPU: each in one process, and with denoiser and VAE on two ranks (Mochi Parallel "
        "Settings). What they are compared with is made in one process, by our nodes alone where the row does not say "
        "otherwise. Where two ranks show what one process does, it is said once.",
        "*Equal to 1e-5*: the relative difference of the latents is not larger; frames are compared as the latents "
        "that Mochi VAE Encode makes of them, to 1e-4. *Refused*: the node ends the run, and its message says what is "
        "quoted. *Differs*: the result is finite, and not the same. *No such node*: that ComfyUI has it not.",
    )
    return "\n\n".join(fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


if __name__ == "__main__":
    main()
