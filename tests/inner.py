"""A pytest in a process of its own, for tests that change the process that they run in."""

import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class InnerRun:
    """What the inner pytest said: its output, and per file the number of tests by outcome, and what failed."""

    output: str
    outcomes: dict[str, Counter]
    failures: dict[str, list[str]]

    def check(self, name: str) -> None:
        """Every test of this file passed: fail or skip otherwise."""
        outcome = self.outcomes[name]
        print(dict(outcome))
        if self.failures[name]:
            pytest.fail("\n\n".join((f"{name}: {dict(outcome)}", *self.failures[name])), pytrace=False)
        if not outcome:
            pytest.fail(f"{name}: no test ran\n{self.output}", pytrace=False)
        if set(outcome) == {"skipped"}:
            pytest.skip(f"every test of {name} was skipped")


def files_in(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("test_*.py"))


def run_inside(folder: Path, cwd: Path, report: Path, limit: int, **environment: str) -> InnerRun:
    """Run the tests of a folder. report: a file to be written. limit: seconds. environment: what is added to it."""
    options = [f"--junitxml={report}", "--color=no", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", str(folder), *options]
    variables = {**os.environ, **environment}
    try:
        done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"the inner tests took more than {limit} s:\n{(error.stdout or b'').decode(errors='replace')}")
    output = done.stdout + done.stderr
    if not report.is_file():
        pytest.fail(f"the inner pytest ended with status {done.returncode} and no report:\n{output}")
    outcomes: dict[str, Counter] = {name: Counter() for name in files_in(folder)}
    failures: dict[str, list[str]] = {name: [] for name in outcomes}
    for case in xml.parse(report).iter("testcase"):
        # A file that cannot be imported is a case named by the file, without a class.
        path = (case.get("classname") or case.get("name") or "").split(".")
        name = next(part for part in path if part in outcomes)
        outcome = case[0].tag if len(case) else "passed"
        outcomes[name][outcome] += 1
        if outcome in ("failure", "error"):
            failures[name].append(f"{case.get('name')}\n{case[0].text}")
    return InnerRun(output, outcomes, failures)
