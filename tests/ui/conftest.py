"""The page, served by the command line as a person starts it, and a browser to look at it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from mochi.config import TINY
from scripts.comfyui import PROJECT
from scripts.editor import NoBrowser, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@dataclass
class Served:
    """A running `python -m mochi ui`. output: the folder for its videos. lora: a file that it offers, off by itself."""

    url: str
    output: Path
    lora: Path
    process: subprocess.Popen[str]

    def videos(self) -> list[Path]:
        return sorted(self.output.glob("*.mp4"))


LORA = "painted"


def write_lora(path: Path) -> Path:
    """A LoRA for the tiny model, of random numbers."""
    path.parent.mkdir(exist_ok=True)
    width = TINY.dit.hidden_x
    down, up = (torch.randn(shape, generator=torch.manual_seed(0)) / 8 for shape in ((2, width), (3 * width, 2)))
    save_file({"blocks.0.attn.qkv_x.lora_A": down, "blocks.0.attn.qkv_x.lora_B": up}, path)
    return path


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """The page of the tiny model, until it is left; then nothing of it is left."""
    lora = write_lora(folder.parent / f"{folder.name}_loras" / f"{LORA}.safetensors")
    command = [sys.executable, "-m", "mochi", "ui", "--device=cpu", "--folder", str(folder / "videos")]
    command += [f"--lora={lora}=0", *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = re.fullmatch(r"the page: (\S+)\n", line)
            assert url, f"{line!r} was printed"
            yield Served(url[1].rstrip("/"), folder / "videos", lora, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page")
    with serving(folder) as served:
        yield served
    assert served.process.returncode == 0
    assert [path.name for path in folder.iterdir() if path.name != "videos"] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as browser:
            yield browser
    except NoBrowser as reason:
        pytest.skip(f"no browser to test in: {reason}")
