"""Many videos over the machines of a Ray cluster, by the command line: all are made, whatever dies meanwhile."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.raylets import Raylets, needs_ray, raylets

pytestmark = needs_ray

COUNT = 24
PROJECT = Path(__file__).parents[2]
COLOURS, DIRECTIONS = ("red", "blue", "green", "white"), ("left", "right", "up", "down")
MORE = {"steps": 3, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    """Three machines with one processor each."""
    with raylets(3) as running:
        yield running


@pytest.fixture
def write(tmp_path):
    def write(count: int, steps: Sequence[int] = (3, 4), folder: str = "videos") -> Path:
        """A file of jobs for PNG frames, which show each byte."""
        out = tmp_path / folder
        out.mkdir()
        lines = []
        for number in range(count):
            prompt = f"a {COLOURS[number % 4]} circle moves {DIRECTIONS[number // 4 % 4]} on a black background"
            values = {**MORE, "prompt": prompt, "seed": number, "steps": steps[number % len(steps)]}
            lines.append(json.dumps({**values, "output": str(out / f"{number:03}.png")}))
        (out / "jobs.jsonl").write_text("\n".join(lines))
        return out / "jobs.jsonl"

    return write


def start(jobs: Path, *options: str, cluster: Raylets | None = None) -> subprocess.Popen[str]:
    """The command line, with one thread, as each worker has."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if cluster is not None:
        environment["TMPDIR"] = str(cluster.folder)
        options = ("--ray", cluster.address, *options)
    command = [sys.executable, "-m", "mochi", "generate", "--jsonl", str(jobs), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=PROJECT, env=environment, text=True, preexec_fn=_listen_to_ctrl_c, **pipes)


def _listen_to_ctrl_c() -> None:
    """A shell's job in the background, as a whole suite can be, ignores it, and all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def made_by(folder: Path) -> Counter[str]:
    """How many videos each machine has made, by the records."""
    return Counter(json.loads(path.read_text())["run"]["machine"] for path in folder.glob("*.json"))


def frames_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.png"))}


def whole(folder: Path, count: int) -> bool:
    """Whether all videos are there with all their frames, and nothing but them, their records and the jobs."""
    names = {f"{number:03}{suffix}" for number in range(count) for suffix in ("", ".json")} | {"jobs.jsonl"}
    there = {path.name for path in folder.iterdir()}
    return there == names and all(len(list((folder / f"{n:03}").iterdir())) == 25 for n in range(count))


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.05)


def test_all_machines_share_the_videos_and_one_of_them_is_lost(cluster, write):
    """The frames are those of a run without Ray, to the byte; a second start makes nothing."""
    alone = write(COUNT, folder="alone")
    jobs = write(COUNT)
    running = start(jobs, cluster=cluster)
    wait_for(lambda: len(made_by(jobs.parent)) == 3, 240)  # each of them has made one
    lost = cluster.add()  # one more, which joins and is lost, so that the others are there for other tests
    wait_for(lambda: len(made_by(jobs.parent)) == 4 or running.poll() is not None, 240)
    cluster.kill(lost)
    said, told = running.communicate(timeout=300)
    assert running.returncode == 0, told
    assert whole(jobs.parent, COUNT)
    assert Counter(said.split()) == Counter(str(jobs.parent / f"{number:03}") for number in range(COUNT))  # none twice
    assert start(alone).wait(300) == 0
    assert frames_of(jobs.parent) == frames_of(alone.parent)

    before = {path: path.stat().st_mtime_ns for path in jobs.parent.rglob("*")}
    again = start(jobs, cluster=cluster)
    said, told = again.communicate(timeout=120)
    assert (again.returncode, said) == (0, "") and f"{COUNT} of {COUNT} videos are there already" in told
    assert {path: path.stat().st_mtime_ns for path in jobs.parent.rglob("*")} == before
    assert not cluster.workers() and not cluster.left_over()


def test_ctrl_c_leaves_no_worker_and_no_part(cluster, write):
    jobs = write(12, steps=(40,))
    running = start(jobs, cluster=cluster)
    wait_for(lambda: made_by(jobs.parent))
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130 and "cancelled" in told
    wait_for(lambda: not cluster.workers() and not cluster.left_over(), 20)
    made = sum(made_by(jobs.parent).values())
    assert 0 < made < 12
    names = {path.name for path in jobs.parent.iterdir() if path.suffix != ".jsonl"}
    assert len(names) == 2 * made and not any(name.startswith(".") for name in names)


def test_a_killed_command_leaves_no_worker_and_no_part(cluster, write):
    jobs = write(12, steps=(40,))
    running = start(jobs, cluster=cluster)
    wait_for(lambda: made_by(jobs.parent))
    running.kill()
    running.communicate()
    wait_for(lambda: not cluster.workers() and not cluster.left_over(), 20)
    wait_for(lambda: not [path for path in jobs.parent.iterdir() if path.name.startswith(".")], 20)


def test_workers_that_are_killed_again_and_again_lose_nothing(cluster, write):
    count, chosen = 12, random.Random(0)
    jobs = write(count, steps=(20, 32))
    running = start(jobs, cluster=cluster)
    killed, last = 0, time.monotonic()
    wait_for(lambda: made_by(jobs.parent))
    while running.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - last > 2 and killed < 2 and (there := cluster.workers()):
            killed, last = killed + 1, time.monotonic()
            with suppress(psutil.Error):
                chosen.choice(there).kill()
    said, told = running.communicate()
    assert running.returncode == 0 and killed, told
    assert whole(jobs.parent, count) and len(said.split()) == len(set(said.split())) == count
    wait_for(lambda: not cluster.workers() and not cluster.left_over(), 20)
