"""Runs the tests of `inside/` in one process of their own, in which ComfyUI and the pack are loaded."""

from pathlib import Path

import pytest

from tests.inner import InnerRun, files_in, run_inside

INSIDE = Path(__file__).parent / "inside"
LIMIT = 1800
"""Seconds; 4 minutes on fast cores. On slow ones another process of tests may have the other core."""


@pytest.fixture(scope="module")
def inner_run(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    report = tmp_path_factory.mktemp("inside") / "report.xml"
    return run_inside(INSIDE, INSIDE, report, LIMIT, COMFYUI_PATH=str(comfyui_path))


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", files_in(INSIDE))
def test_inside(inner_run: InnerRun, name: str):
    """Every test of this file passed. To run it alone: `.venv/bin/pytest tests/host/inside/NAME.py`."""
    inner_run.check(name)
