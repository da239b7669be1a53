"""Fixtures of the tests of the group."""

import tempfile
from collections.abc import Iterator
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The ranks need the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def private_tmp(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder of this test alone, where groups make theirs; its path is short enough for sockets."""
    get_temp_dir(), tmp_path_factory.getbasetemp()  # of this process and of pytest, which stay
    with tempfile.TemporaryDirectory(prefix="mochi-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)
        monkeypatch.undo()
