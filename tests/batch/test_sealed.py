"""Videos of workers are signed by the machine that asks for them, before they get their names."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("c2pa")

from mochi.batch import scheduler
from mochi.batch.record import fingerprint, remaining
from mochi.batch.requests import LoadPipeline, Made
from mochi.batch.scheduler import run_batch
from mochi.batch.service import parts_of
from mochi.errors import MochiError
from mochi.parallel.protocol import Event
from mochi.provenance import Signer, read_credentials
from mochi.video import VideoWriter
from tests.batch.helpers import LOAD, RECIPE, Here, Memory, job, names, record_of, results
from tests.certificates import identity

FRAMES = np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)


class Worker:
    """Writes a real video, in its own folder or on the shared path, as a worker does."""

    name, machine, alive = "box1/0", "box1", True

    def __init__(self, folder: Path):
        self.folder, self.requests = folder, []

    def start(self) -> Any:
        return self

    def close(self) -> None: ...

    def stream(self, request: Any) -> Iterator[Event]:
        self.requests.append(request)
        if isinstance(request, LoadPipeline):
            return [SimpleNamespace(result="")]
        output = request.output if request.shared else self.folder / f"{len(self.requests)}-{request.output}"
        with VideoWriter(output, 12, (32, 32)) as video:
            video.write(FRAMES)
        if not request.shared:
            for part in parts_of(video.path):
                yield Event(0, replace(part, name=part.name.replace(output.stem, request.output.stem, 1)))
        return [SimpleNamespace(result=Made(fingerprint(video.path)))]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"TICK": 0.005, "LOOK": 0.01}.items():
        monkeypatch.setattr(scheduler, name, seconds)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(identity(tmp_path))


@pytest.mark.parametrize("shared", [False, True], ids=["sent", "shared"])
def test_signed_where_it_is_asked_for(shared: bool, signer: Signer, tmp_path: Path) -> None:
    out, worker = tmp_path / "out", Worker(tmp_path / "worker")
    (tmp_path / "first.png").write_bytes(b"a picture")
    asked = [job(out / "clip.mp4", 1, images=[f"{tmp_path}/first.png@6"]), job(out / "folder.png", 2)]
    files = {"model": f"{tmp_path}/weights/mochi/", "loras": (f"{tmp_path}/ink.safetensors=0.8",)}
    recipe = replace(RECIPE, **files, signed_by="Jo Maker")
    watcher = Memory()
    assert not run_batch(asked, Here(worker), LOAD, recipe, watcher, shared, signer=signer)
    assert names(out) == results(*asked)
    for made in asked:
        found, record = read_credentials(made.video), record_of(made)
        assert found is not None and not found.problems and found.signed_by == "Jo Maker"
        assert found.settings.items() >= {"prompt": "a red circle", "seed": made.line, "model": "mochi"}.items()
        assert found.settings["loras"] == ["ink.safetensors=0.8"] and "/" not in str(found.settings)
        assert record["run"].items() >= {**fingerprint(made.video), "signed_by": "Jo Maker"}.items()
    assert not remaining(asked, recipe)
    assert not any("PRIVATE" in repr(vars(request)) for request in worker.requests)


def test_nothing_stays_where_it_cannot_be_signed(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MochiError("a planned failure")

    monkeypatch.setattr(Signer, "_sign", fail)
    watcher = Memory()
    run_batch([job(tmp_path / "out" / "clip.mp4", 1)], Here(Worker(tmp_path)), LOAD, RECIPE, watcher, signer=signer)
    assert watcher.errors == {1: "a planned failure"} and names(tmp_path / "out") == []


def test_who_signs_is_part_of_the_recipe(tmp_path: Path) -> None:
    """Unsigned videos are made again where they are to be signed; signed ones do where nobody asks for that."""
    one = job(tmp_path / "clip.mp4")
    signed = replace(RECIPE, signed_by="Jo Maker")
    run_batch([one], Here(Worker(tmp_path / "worker")), LOAD, RECIPE, Memory())
    assert "signed_by" not in record_of(one)["run"]
    assert not remaining([one], RECIPE) and remaining([one], signed) == [one]
    run_batch([one], Here(Worker(tmp_path / "again")), LOAD, signed, Memory())
    assert not remaining([one], RECIPE) and not remaining([one], signed)
    assert remaining([one], replace(signed, signed_by="Another")) == [one]
