"""Runs the tests of `inside/` in a process of their own, in which torch believes in a CUDA device; and on a real one.

To run one alone: `.venv/bin/pytest tests/cuda/inside/NAME.py`, with MOCHI_TEST_CUDA=real on a real device.
"""

from pathlib import Path

import pytest

from tests.inner import InnerRun, files_in, run_inside

INSIDE = Path(__file__).parent / "inside"
PROJECT = Path(__file__).parents[2]
LIMIT = 600


@pytest.fixture(scope="module", params=["pretended", pytest.param("real", marks=pytest.mark.cuda)])
def inner_run(request, tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    report = tmp_path_factory.mktemp("inside") / "report.xml"
    return run_inside(INSIDE, PROJECT, report, LIMIT, MOCHI_TEST_CUDA=request.param)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", files_in(INSIDE))
def test_inside(inner_run: InnerRun, name: str):
    """Every test of this file passed."""
    inner_run.check(name)
