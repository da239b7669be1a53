"""Mixed graphs, our nodes among built-in ones, over the API of a running ComfyUI; and the table of what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from scripts.client import ComfyClient
from scripts.comfyui import prepare_base
from scripts.mixed_table import MIXED, Line, rows_in, text, write
from scripts.server import ComfyServer
from tests.host.conftest import Comfy
from tests.host.mixed.checks import judged
from tests.host.mixed.graph import Graph
from tests.host.mixed.guidance_rows import GUIDANCE
from tests.host.mixed.image_rows import IMAGE
from tests.host.mixed.latent_rows import LATENT
from tests.host.mixed.model_rows import MODEL
from tests.host.mixed.rows import Row
from tests.host.mixed.sampler_rows import SAMPLERS
from tests.host.mixed.text_rows import TEXT
from tests.host.mixed.vae_rows import VAE

ROWS = [row for section in (TEXT, MODEL, SAMPLERS, GUIDANCE, LATENT, VAE, IMAGE) for row in section.rows]
pytestmark = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two ranks need no GPU, or two")


@pytest.fixture(scope="module")
def comfy(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """A server with one thread: what is computed here is so small that threads mostly wait for each other."""
    base = prepare_base(tmp_path_factory.mktemp("mixed"))
    with ComfyServer(comfyui_path, base, cpu=True, environment={"OMP_NUM_THREADS": "1"}) as server:
        yield Comfy(server, ComfyClient(server.url), base)


@pytest.fixture(scope="module")
def seen() -> Iterator[list[Line]]:
    """What the rows have shown; written down once all have been run, for `python -m scripts.mixed_table`."""
    lines: list[Line] = []
    yield lines
    if len(lines) == len(ROWS):
        write(lines)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(comfy: Comfy, seen: list[Line], row: Row):
    results = []
    for ranks in (1, 2):
        graph = Graph(comfy, ranks)
        results.append(judged(graph, row.build(graph)))
    seen.append(Line(row.section, row.ours, row.builtin, row.compared, *results))


def test_the_table_has_every_row_and_no_other():
    titles = [cells[:3] for cells in rows_in(MIXED.read_text(encoding="utf-8"))]
    assert titles == [(row.ours, row.builtin, row.compared) for row in ROWS]


def test_the_table_says_what_was_seen(seen: list[Line]):
    page = MIXED.read_text(encoding="utf-8")
    assert {line.cells for line in seen} <= set(rows_in(page)), "python -m scripts.mixed_table >workflows/MIXED.md"
    if len(seen) == len(ROWS):
        assert page == text(seen) + "\n"
