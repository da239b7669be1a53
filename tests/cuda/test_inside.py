"""Runs the tests of `inside/` in one process of their own, in which torch believes in a CUDA device."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inner import InnerRun, files_in, run_inside

INSIDE = Path(__file__).parent / "inside"
LIMIT = 600


@pytest.fixture(scope="module")
def inner_run(tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    return run_inside(INSIDE, tmp_path_factory.mktemp("inside") / "report.xml", LIMIT)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", files_in(INSIDE))
def test_inside(inner_run: InnerRun, name: str):
    """Every test of this file passed. To run it alone: `.venv/bin/pytest tests/cuda/inside/NAME.py`."""
    inner_run.check(name)
