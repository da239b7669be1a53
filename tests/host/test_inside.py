"""Runs the tests of `inside/` in one process of their own, in which ComfyUI and the pack are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

INSIDE = Path(__file__).parent / "inside"
FILES = sorted(file.stem for file in INSIDE.glob("test_*.py"))
LIMIT = 1200


@dataclass(frozen=True)
class InnerRun:
    """What the inner pytest said: its output, and per file the number of tests by outcome."""

    output: str
    outcomes: dict[str, Counter]


@pytest.fixture(scope="module")
def inner_run(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> InnerRun:
    report = tmp_path_factory.mktemp("inside") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(INSIDE), f"--junitxml={report}", "--color=no"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui_path)}
    try:
        done = subprocess.run(command, cwd=INSIDE, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"the inner tests took more than {LIMIT} s:\n{(error.stdout or b'').decode(errors='replace')}")
    output = done.stdout + done.stderr
    if not report.is_file():
        pytest.fail(f"the inner pytest ended with status {done.returncode} and no report:\n{output}")
    outcomes: dict[str, Counter] = {name: Counter() for name in FILES}
    for case in xml.parse(report).iter("testcase"):
        # A file that cannot be imported is a case named by the file, without a class.
        name = (case.get("classname") or case.get("name") or "").split(".")[0]
        outcomes.setdefault(name, Counter())[case[0].tag if len(case) else "passed"] += 1
    return InnerRun(output, outcomes)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("name", FILES)
def test_inside(inner_run: InnerRun, name: str):
    """Every test of this file passed. To run it alone: `.venv/bin/pytest tests/host/inside/NAME.py`."""
    outcome = inner_run.outcomes[name]
    print(dict(outcome))
    bad = outcome["failure"] + outcome["error"]
    if bad or not outcome:
        pytest.fail(f"{name}: {dict(outcome) or 'no test ran'}\n{inner_run.output}", pytrace=False)
    if set(outcome) == {"skipped"}:
        pytest.skip(f"every test of {name} was skipped")
