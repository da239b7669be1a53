"""The log of a run that is killed and goes on."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mochi.errors import MochiError
from mochi.train.log import Log


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_behind_the_checkpoint_are_forgotten(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 6):
        log.tell(step, {"loss": step / 3, "videos": []})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    log = Log(tmp_path, 3)
    log.tell(4, {"loss": float("nan")})
    log.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 0.333333),
        (2, 0.666667),
        (3, 1.0),
        (4, None),
    ]


def test_tensorboard_hears_the_numbers_where_it_is_installed(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: board)
    log = Log(tmp_path, 4)
    log.tell(5, {"loss": 0.5, "videos": ["a.mp4"]})
    log.close()
    assert told == [(str(tmp_path / "tensorboard"), 5), ("loss", 0.5, 5), "closed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
def test_a_full_disk_is_told_once(tmp_path):
    log = Log(tmp_path, 0)
    log._file = open("/dev/full", "a")  # noqa: SIM115
    try:
        with pytest.raises(MochiError, match="the log could not be written: the disk is full"):
            log.tell(1, {"loss": 0.5})
    finally:
        log.close()
