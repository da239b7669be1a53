"""Workers in processes of this machine, with the built-in model: shared work, deaths, interruption."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mochi.batch.job import Job
from mochi.batch.record import fingerprint, remaining
from mochi.batch.scheduler import run_batch
from mochi.cli import main as cli
from mochi.errors import MochiError
from tests.batch.helpers import (
    LOAD,
    REAL,
    RECIPE,
    Here,
    LocalPlace,
    Memory,
    frames_of,
    job,
    jobs,
    names,
    record_of,
    results,
    two,
)
from tests.parallel.helpers import gone, wait_until


def run(jobs: list[Job], site: Here, watcher: Memory | None = None, **how) -> Memory:
    """What a watcher remembers of a run, whose workers are all gone behind it."""
    watcher = watcher or Memory()
    wrong = run_batch(jobs, site, LOAD, RECIPE, watcher, **how)
    assert {line: str(error) for line, error in wrong.items()} == watcher.errors
    assert gone(pids(site))
    return watcher


def pids(site: Here) -> list[int]:
    return [pid for place in site.there if isinstance(place, LocalPlace) for pid in place.pids]


def settings_of(job: Job) -> list[str]:
    settings = job.settings
    sizes = [f"--{name}={getattr(settings, name)}" for name in ("seed", "steps", "width", "height", "frames")]
    return [settings.prompt, *sizes, *(f"--image={image.file}@{image.frame}" for image in settings.images)]


def test_two_workers_make_what_one_process_makes(tmp_path: Path, private_tmp: Path) -> None:
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(tmp_path / "grey.png")
    asked = jobs(tmp_path / "out", 4)
    asked.append(job(tmp_path / "out" / "shown.mp4", 5, images=[f"{tmp_path}/grey.png@6"]))
    asked.append(job(tmp_path / "out" / "folder.png", 6))
    watcher = run(asked, two(service=REAL))
    assert not watcher.errors and not watcher.troubles
    assert sorted(name for name, _ in watcher.videos) == sorted(job.video.name for job in asked)
    assert {machine for _, machine in watcher.videos} == {"box1", "box2"}
    assert names(tmp_path / "out") == results(*asked)
    for made in asked:
        record, alone = record_of(made), tmp_path / "alone" / made.output.name
        assert cli.main(["generate", *settings_of(made), "--device=cpu", "--variant=frames", f"--output={alone}"]) == 0
        if made.output.suffix == ".png":
            assert fingerprint(alone.with_suffix("")) == fingerprint(made.video)
        else:
            assert np.array_equal(frames_of(alone), frames_of(made.video))
        twin = record_of(Job(made.settings, alone))
        for run_of in (record["run"], twin["run"]):
            assert run_of.pop("seconds") >= 0
        assert record["run"].pop("machine") in ("box1", "box2")
        if made.output.suffix == ".mp4":  # whose bytes need not be the same
            twin["run"] |= {name: record["run"][name] for name in ("nbytes", "sha256")}
        assert record == {**twin, "output": str(made.output)}
        assert record["run"]["sha256"] == fingerprint(made.video)["sha256"]
    assert not remaining(asked, RECIPE)
    wait_until(lambda: not list(private_tmp.rglob("mochi-videos-*")), 5)


def test_a_shared_path(tmp_path: Path, private_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, as a person writes it."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save("grey.png")
    asked = [job("out/clip.mp4", 1, "shown", images=["grey.png"]), job("out/folder.png", 2)]
    watcher = run(asked, Here(LocalPlace("box1/0", "box1")), shared=True)
    assert len(watcher.videos) == 2 and not watcher.errors
    assert names(tmp_path / "out") == results(*asked)
    assert not remaining(asked, RECIPE)


def test_workers_that_are_killed(tmp_path: Path, private_tmp: Path) -> None:
    """One in the middle of a video, another as soon as it has made one: all arrive, none twice, and none in part."""
    site, asked = two(), jobs(tmp_path, 6, steps=12)
    killed: list[int] = []
    scratch: list[Path] = []

    def kill() -> None:
        first, second = site.there
        if not killed and any("step" in what for name, what in watcher.did if name == first.name):
            scratch.extend(private_tmp.rglob("mochi-videos-*"))
            killed.append(first.pids[0])
            os.kill(killed[0], signal.SIGKILL)
        if len(killed) == 1 and "box2" in {machine for _, machine in watcher.videos}:
            killed.append(second.pids[0])
            os.kill(killed[1], signal.SIGKILL)

    watcher = Memory(kill)
    run(asked, site, watcher)
    assert len(killed) == 2 and len(scratch) >= 1
    assert not watcher.errors
    assert sorted(name for name, _ in watcher.videos) == sorted(job.video.name for job in asked)
    assert names(tmp_path) == results(*asked)
    assert not remaining(asked, RECIPE)
    assert any("is made again, since its worker died: Rank 0 of 1 (cpu) was killed" in it for it in watcher.troubles)
    wait_until(lambda: not list(private_tmp.rglob("mochi-videos-*")), 5)


def test_a_video_that_ends_its_workers(tmp_path: Path, private_tmp: Path) -> None:
    asked = [job(tmp_path / "bad.mp4", 9, "poison"), *jobs(tmp_path, 3)]
    watcher = run(asked, two())
    assert watcher.errors.keys() == {9}
    assert "died 3 times, in box" in watcher.errors[9] and "was killed by SIGKILL" in watcher.errors[9]
    assert [it.split(":")[0] for it in watcher.troubles] in (["box1/0", "box2/0"], ["box2/0", "box1/0"])  # elsewhere
    assert names(tmp_path) == results(*asked[1:])


def test_a_worker_that_hangs(tmp_path: Path, private_tmp: Path) -> None:
    """It makes no progress for the timeout of its group, and another goes on."""
    hung, asked = tmp_path / "hung", [job(tmp_path / "out" / "clip.mp4", 1, "hang", negative=str(tmp_path / "hung"))]
    watcher = run(asked, Here(LocalPlace("box1/0", "box1", timeout=6.0)))
    assert hung.exists() and not watcher.errors
    said = "clip.mp4 is made again, since its worker died: Rank 0 of 1 (cpu) gave no sign of life"
    assert any(said in trouble for trouble in watcher.troubles)
    assert names(tmp_path / "out") == results(*asked)


def test_a_job_that_cannot_be_made_is_not_tried_again(tmp_path: Path, private_tmp: Path) -> None:
    """And its worker goes on."""
    wrong = job(tmp_path / "bad.mp4", 7, "wrong")
    site = Here(LocalPlace("box1/0", "box1"))
    watcher = run([wrong, *jobs(tmp_path, 1)], site)
    assert watcher.errors.keys() == {7} and "a planned refusal" in watcher.errors[7]
    assert not watcher.troubles and len(pids(site)) == 1
    assert names(tmp_path) == results(job(tmp_path / "clip_1.mp4"))


def test_a_second_start_makes_what_is_missing(tmp_path: Path, private_tmp: Path) -> None:
    asked = jobs(tmp_path, 2)
    run(asked, Here(LocalPlace("box1/0", "box1")))
    first = frames_of(asked[0].video)
    assert not remaining(asked, RECIPE)
    damaged = bytearray(asked[0].video.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    asked[0].video.write_bytes(damaged)
    assert remaining(asked, RECIPE) == asked[:1]
    watcher = run(remaining(asked, RECIPE), Here(LocalPlace("box1/0", "box1")))
    assert [name for name, _ in watcher.videos] == ["clip_1.mp4"]
    assert np.array_equal(frames_of(asked[0].video), first)


def test_a_place_that_comes_late_and_one_that_goes(tmp_path: Path, private_tmp: Path) -> None:
    first, second = LocalPlace("box1/0", "box1"), LocalPlace("box2/0", "box2")
    site, asked = Here(first), jobs(tmp_path, 6, steps=12)

    def change() -> None:
        if watcher.videos and second not in site.there:
            site.there.append(second)
        if first in site.there and "box2" in {machine for _, machine in watcher.videos}:
            site.there.remove(first)
            os.kill(first.pids[0], signal.SIGKILL)

    watcher = Memory(change)
    run(asked, site, watcher)
    assert not watcher.errors and len(watcher.videos) == 6
    assert len(first.groups) == 1  # none is started where no place is
    assert gone(first.pids) and names(tmp_path) == results(*asked)


@pytest.mark.parametrize("stage", ["starting", "step", "frame", "shared frame"])
def test_interruption_leaves_nothing(tmp_path: Path, private_tmp: Path, stage: str) -> None:
    site, shared, stage = two(), stage.startswith("shared"), stage.split()[-1]

    def interrupt() -> None:
        if any(stage in what for _, what in watcher.did):
            watcher.on_draw = lambda: None
            raise KeyboardInterrupt

    watcher, steps = Memory(interrupt), 2 if stage == "frame" else 1000
    asked = [job(tmp_path / "out" / f"{line}.png", line, steps=steps, frames=61) for line in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt):
        run_batch(asked, site, LOAD, RECIPE, watcher, shared)
    assert gone(pids(site))
    made = [job for job in asked if job.video.name in dict(watcher.videos)]
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == results(*made)
    wait_until(lambda: not list(private_tmp.rglob("mochi-videos-*")), 5)
    assert [path.name for path in private_tmp.iterdir() if path.name.startswith("mochi-")] == []


def test_what_cannot_be_loaded_ends_the_place(tmp_path: Path, private_tmp: Path) -> None:
    watcher = Memory()
    load, site = replace(LOAD, model=tmp_path / "absent"), Here(LocalPlace("box1/0", "box1", REAL))
    wrong = run_batch(jobs(tmp_path, 1), site, load, RECIPE, watcher, grace=0.1)
    assert "no place to work in is left" in str(wrong[1])
    (trouble,) = watcher.troubles
    assert "box1/0: no worker starts there, it is given up" in trouble and "no such model directory" in trouble
    assert names(tmp_path) == []


def test_two_lines_of_one_name(tmp_path: Path) -> None:
    asked = [job(tmp_path / "a.mp4", 1), job(tmp_path / "a.webm", 2)]
    with pytest.raises(MochiError, match=r"a\.json: lines 1 and 2 would both write it"):
        run_batch(asked, Here(), LOAD, RECIPE, Memory())
