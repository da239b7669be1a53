"""The progress of many videos, on a terminal and in a file."""

import io
import sys
from pathlib import Path

import pytest

from mochi.batch.display import Display
from mochi.batch.requests import Made
from mochi.errors import MochiError
from tests.batch.helpers import LocalPlace, job

ONE, TWO, OTHER = LocalPlace("box1/0", "box1"), LocalPlace("box1/1", "box1"), LocalPlace("box2/0", "box2")


def show(display: Display) -> None:
    with display:
        display.draw()
        for step in range(50):
            display.doing(ONE, f"a.mp4 step {step} of 50")
            display.doing(TWO, "loading")
            display.doing(OTHER, "waiting")
            display.draw()
        display.trouble(OTHER, "no worker starts there: it is on fire")
        display.doing(OTHER, "")
        display.made(job("a.mp4", 1), ONE, Made({"seconds": 1.5}, "3 of 4 passes"))
        display.failed(job("b.mp4", 2), MochiError("a bad line"))
        display.draw()


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    show(Display(2, Path("list.jsonl")))
    out, err = capsys.readouterr()
    assert out == "a.mp4\n"
    assert err.splitlines() == [
        "box2/0: no worker starts there: it is on fire",
        "a.mp4: 3 of 4 passes",
        "1/2: a.mp4, box1, 1.5 s",
        "error: list.jsonl, line 2: a bad line",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show(Display(2))
    shown = terminal.getvalue()
    assert "box1: 2 workers, 0 made  a.mp4 step 49 of 50 | loading" in shown
    assert "box1: 2 workers, 1 made  a.mp4 step 49 of 50 | loading" in shown
    assert "box2: 1 worker, 0 made  waiting" in shown and "box2: 0 workers, 0 made" in shown
    assert "2/2" in shown and "error: line 2: a bad line\n" in shown
    assert "1/2: a.mp4" not in shown  # the bar says so
    assert capsys.readouterr().out == "a.mp4\n"


def test_lines_are_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    show(Display(2))
    assert "box1: 2 workers, 0 made  a.mp" in terminal.getvalue() and "a.mp4 s" not in terminal.getvalue()
