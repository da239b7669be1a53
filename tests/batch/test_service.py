"""The service of a worker, called in this process, and the temporary folder that ends with its process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mochi.batch import service
from mochi.batch.record import fingerprint
from mochi.batch.requests import FilePart, FramesWritten, LoadPipeline, MakeVideo, StepMade
from mochi.batch.scratch import Scratch
from mochi.batch.service import parts_of, with_pictures
from mochi.errors import Cancelled, MochiError
from tests.batch.helpers import job, names
from tests.batch.toy_maker import Toy
from tests.parallel.helpers import wait_until


@pytest.fixture
def toy(private_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A service with a model, and in `told` what it tells, each step of it."""
    monkeypatch.setattr(service, "WORD", 0.0)
    told: list[Any] = []
    toy = Toy(SimpleNamespace(emit=told.append, asked_to_cancel=lambda: False, told=told))  # pyright: ignore
    toy.handle(LoadPipeline())
    return toy


def request(prompt: str = "red", output: str = "clip.mp4", **how: Any) -> MakeVideo:
    return MakeVideo(job("clip.mp4", prompt=prompt).settings, Path(output), 70, **how)


@pytest.mark.parametrize("output", ["clip.mp4", "clip.png"])
def test_files_are_sent_in_parts(toy: Toy, tmp_path: Path, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PART", 1000)
    made = toy.handle(request(output=output))
    parts = [part for part in toy._context.told if isinstance(part, FilePart)]
    assert len(parts) > 7 and max(len(part.data) for part in parts) == 1000
    for part in parts:
        path = tmp_path / part.name
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            assert file.tell() == part.offset
            file.write(part.data)
    assert fingerprint(tmp_path / output.removesuffix(".png")).items() <= made.facts.items()
    steps = [told.phase for told in toy._context.told if told.phase]
    assert steps[:3] == ["step 0 of 2", "step 1 of 2", "step 2 of 2"] and steps[-1] == "frame 7 of 7"
    assert not names(toy._scratch.path)


def test_how_far_it_is_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first and the last of each kind always."""
    told: list[str] = []
    tell = service.Sparing(lambda counted: told.append(counted.phase))
    for total, kind in ((40, StepMade), (30, FramesWritten)):
        for done in range(total + 1):
            tell(kind(done, total))
    assert told == ["step 0 of 40", "step 40 of 40", "frame 0 of 30", "frame 30 of 30"]
    monkeypatch.setattr(service, "WORD", 0.0)
    tell(FramesWritten(7, 30))
    assert told[-1] == "frame 7 of 30"


@pytest.mark.parametrize("stage", ["step", "frame", "part"])
def test_it_can_be_cancelled(toy: Toy, stage: str) -> None:
    def seen() -> bool:
        kinds = {"step": "step 1", "frame": "frame 1"}
        told = toy._context.told
        if stage == "part":
            return any(isinstance(event, FilePart) for event in told)
        return any(event.phase.startswith(kinds[stage]) for event in told)

    toy._context.asked_to_cancel = seen
    toy._context.emit(FilePart("", 0, b"")) if stage == "part" else None
    with pytest.raises(Cancelled):
        toy.handle(request(output="clip.png"))
    assert not names(toy._scratch.path)
    assert not any(isinstance(event, FilePart) and event.data for event in toy._context.told)


@pytest.mark.parametrize("output", ["clip.mp4", "clip.png"])
def test_a_shared_folder_that_is_removed_does_not_come_back(toy: Toy, tmp_path: Path, output: str) -> None:
    """Who asked for the video may remove it as soon as it is to be written, before the worker hears that."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    toy._context.emit = lambda told: folder.rmdir() if told == FramesWritten(0, 7) else None
    with pytest.raises(MochiError, match="could not be written"):
        toy.handle(request(output=str(folder / output), shared=True))
    assert not folder.exists() and not names(toy._scratch.path)


def test_a_full_disk_is_the_machine_s_fault(toy: Toy, tmp_path: Path) -> None:
    """And not the job's, which another machine may make; on a shared path it is full for all."""
    with pytest.raises(OSError, match="the temporary folder of the worker is full"):
        toy.handle(request("full"))
    with pytest.raises(MochiError, match="the disk is full"):
        toy.handle(request("full", str(tmp_path / "clip.mp4"), shared=True))


def test_a_path_that_is_not_shared(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(MochiError, match="absent: not seen on every machine"):
        toy.handle(request(output=str(tmp_path / "absent" / "clip.mp4"), shared=True))
    assert names(tmp_path) == []


def test_a_model_is_loaded_first(toy: Toy) -> None:
    toy._pipeline = None
    with pytest.raises(MochiError, match="no model is loaded yet"):
        toy.handle(request())


def test_pictures_come_along(tmp_path: Path) -> None:
    """Two of one name in different folders, and one that is given to two frames."""
    colours = {"a/x.png": 10, "b/x.png": 200}
    for name, colour in colours.items():
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(tmp_path / name)
    images = [f"{tmp_path}/a/x.png@0", f"{tmp_path}/b/x.png@1=0.5", f"{tmp_path}/a/x.png@7"]
    settings = job("clip.mp4", images=images, frames=13).settings
    there = tmp_path / "there"
    there.mkdir()
    sent = {image.file: Path(image.file).read_bytes() for image in settings.images}
    found = with_pictures(MakeVideo(settings, Path("clip.mp4"), 70, pictures=sent), there).images
    assert [(image.frame, image.strength) for image in found] == [(0, 1.0), (1, 0.5), (7, 1.0)]
    assert [Path(image.file).parent for image in found] == [there] * 3
    for image, asked in zip(found, settings.images, strict=True):
        assert image.read(32, 32).equal(asked.read(32, 32))


def test_parts_of_a_file_of_a_whole_number_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PART", 4)
    (tmp_path / "x").write_bytes(b"12345678")
    assert [(part.offset, part.data) for part in parts_of(tmp_path / "x")] == [(0, b"1234"), (4, b"5678")]


def in_another_process(script: str, tmp: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"from mochi.batch.scratch import Scratch\nscratch = Scratch()\n{script}"],
        env={**os.environ, "TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        text=True,
    )


ENDS: dict[str, Callable[[subprocess.Popen], object]] = {
    "kill": lambda process: process.kill(),
    "interrupt": lambda process: process.send_signal(signal.SIGINT),
    "its group's end": lambda process: os.killpg(process.pid, signal.SIGKILL),
    "an end": lambda process: process.terminate(),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_folder_goes_with_its_process(tmp_path: Path, how: str) -> None:
    odd = tmp_path / "a 'b' $(c) -r"
    odd.mkdir()
    script = (
        "import os, time\nos.setpgid(0, 0)\n(scratch.path / 'f').write_text('x')\nprint(1, flush=True)\ntime.sleep(60)"
    )
    with in_another_process(f"{script}\ntime.sleep(60)", odd) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        assert [path.name for path in odd.glob("mochi-videos-*/*")] == ["f"]
        ENDS[how](process)
    wait_until(lambda: names(odd) == [], 5)


def test_what_keeps_the_folder_ends_too(private_tmp: Path) -> None:
    """Nobody waits for the folder once it is gone."""
    scratch = Scratch()
    name = str(scratch.path)

    def is_kept() -> bool:
        return any(name.encode() in found for found in map(command_line, Path("/proc").glob("[0-9]*")))

    assert is_kept() and scratch.path.is_dir()
    os.close(scratch._held)
    wait_until(lambda: not scratch.path.exists(), 5)
    wait_until(lambda: not is_kept(), 5)


def command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
