"""Machines that are folders: what one has under some paths, another has under others."""

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from mochi.cluster.weights import WantedFile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is the test's own, and no folder is named."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MOCHI_WEIGHTS", raising=False)
    return tmp_path / "cache" / "mochi-parallel"


@pytest.fixture
def carried_off(tmp_path: Path) -> Callable[[Iterable[WantedFile], Path], Path]:
    """Moves files to another place, in folders and under names of no meaning, and whatever else there was away."""

    def carry(wanted: Iterable[WantedFile], origin: Path) -> Path:
        place, dice = tmp_path / "elsewhere", random.Random(0)
        for number, file in enumerate(wanted):
            folder = place / f"{dice.randrange(3)}" / f"{dice.randrange(3)}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.path, folder / f"{number}.bin")
        shutil.rmtree(origin)
        return place

    return carry
