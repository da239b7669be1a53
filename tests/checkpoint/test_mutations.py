"""Damaged files of every format load to what is in them or are refused, soon and in little memory."""

import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from mochi.errors import CheckpointError
from tests.checkpoint import mutations


def test_damaged_files():
    """In a process of its own, whose memory is limited."""
    command = [sys.executable, "-m", "tests.checkpoint.mutations", "--count", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    totals = re.search(r"(\d+) files, memory grew by (\d+) MB", done.stdout)
    assert int(totals[1]) == 60 and int(totals[2]) < 1024
    equal, refused, problems = (
        sum(map(int, column)) for column in zip(*re.findall(r" (\d+) +(\d+) +(\d+) ", done.stdout))
    )
    assert equal >= 3 and refused >= 30 and problems == 0


@pytest.fixture
def case(tmp_path):
    return next(case for case in mutations.cases(tmp_path) if case.name == "published")


def sleeping(_):
    time.sleep(60)


def failing(_):
    raise KeyError("missing")


def unclear(_):
    raise CheckpointError("something is wrong")


@pytest.mark.parametrize(
    ("load", "why"), [(sleeping, "TooSlow"), (failing, "KeyError"), (unclear, "unclear: something is wrong")]
)
def test_what_may_not_happen_is_noticed(load, why, case, tmp_path, monkeypatch):
    monkeypatch.setattr(mutations, "SECONDS", 0.2)
    monkeypatch.setattr(mutations, "cases", lambda _: [replace(case, load=load)])
    (tally,) = mutations.run(tmp_path, 1).values()
    assert dict(tally.ends) == {"problem": 1}
    assert why in tally.problems[0]


def test_a_wrong_number_is_noticed(case, tmp_path):
    path = tmp_path / "dit.safetensors"
    path.write_bytes(case.content)
    assert mutations.end_of(case, path) == "equal"

    def load(path):
        network = case.load(path)
        network.blocks[1].mlp_x.w2.weight[-1, -1] += 0.001
        return network

    assert mutations.end_of(replace(case, load=load), path) == "not equal: blocks.1.mlp_x.w2.weight"
