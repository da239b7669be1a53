"""Runs the tests of `inside/` in a process of their own, in which Triton interprets kernels on the CPU.

Triton wants to know that when it is imported. To run one alone:
`TRITON_INTERPRET=1 .venv/bin/pytest tests/kernels/inside/NAME.py`.
"""

from pathlib import Path

import pytest

from tests.inner import InnerRun, files_in, run_inside

pytest.importorskip("triton")

INSIDE = Path(__file__).parent / "inside"
PROJECT = Path(__file__).parents[2]
LIMIT = 600


@pytest.fixture(scope="module")
def inner_run(tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    report = tmp_path_factory.mktemp("inside") / "report.xml"
    return run_inside(INSIDE, PROJECT, report, LIMIT, TRITON_INTERPRET="1")


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", files_in(INSIDE))
def test_inside(inner_run: InnerRun, name: str):
    """Every test of this file passed."""
    inner_run.check(name)
