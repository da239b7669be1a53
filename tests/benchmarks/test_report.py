"""What benchmarks print, and the watcher of their memory."""

import json
import sys

import pytest

from benchmarks.report import report
from benchmarks.resident import resident, watched


@pytest.mark.parametrize(
    "figures", [{"a": {"s": 1.0}, "b": {"s": 2.5}}, {"a": {"s": 1.0}, "b": {"MB": None, "of": "x"}}]
)
def test_json_is_one_line_with_all_figures(capsys, figures):
    report("work", figures, as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["figures"] == figures


def test_rows_with_the_same_figures_are_a_table(capsys):
    report("work", {"first": {"s": 1.23456, "MB": 20_000.4}, "second": {"s": 2.0, "MB": None}}, as_json=False)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["work"],
        ["s", "MB"],
        ["first", "1.235", "20000"],
        ["second", "2"],
    ]


def test_rows_with_figures_of_their_own_are_lists(capsys):
    report("work", {"first": {"s": 1.5}, "second": {"split": "by two"}}, as_json=False)
    printed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert printed == [["work"], ["first"], ["s", "1.5"], ["second"], ["split", "by two"]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_memory_is_seen_after_it_is_freed():
    size = 200_000_000
    before = resident()
    with watched() as peak:
        block = bytearray(b"\1") * size
        at_most = resident()
        del block
    assert at_most - before > 0.9 * size
    assert peak[0] >= before
    with watched() as peak:
        block = bytearray(b"\1") * size
    assert peak[0] - before > 0.9 * size
    del block
