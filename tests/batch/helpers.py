"""What the tests of many videos share: jobs, a site of local processes, and a watcher that remembers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from mochi.batch.job import Job
from mochi.batch.record import Recipe
from mochi.batch.requests import SERVICE, LoadPipeline, Made
from mochi.batch.site import Place
from mochi.config import TINY
from mochi.errors import MochiError
from mochi.parallel.owner.group import Group
from mochi.settings import GenerateSettings

TOY = (str(Path(__file__).with_name("toy_maker.py")), "Toy")
REAL = SERVICE
LOAD = LoadPipeline(device="cpu", variant="frames")
RECIPE = Recipe("tiny", "frames")


def job(output: Path | str, line: int = 1, prompt: str = "a red circle", steps: int = 2, **settings) -> Job:
    """A small one for the built-in model."""
    chosen = {"width": 32, "height": 32, "frames": 7, "seed": line, **settings}
    return Job(GenerateSettings.of(TINY.defaults, prompt=prompt, steps=steps, **chosen), Path(output), line)


def jobs(folder: Path, count: int, **settings) -> list[Job]:
    return [job(folder / f"clip_{line}.mp4", line, **settings) for line in range(1, count + 1)]


@dataclass
class LocalPlace:
    """A process of this machine, which may pretend to be on another one. service: TOY or REAL."""

    name: str
    machine: str
    service: tuple[str, str] = TOY
    timeout: float = 60.0
    groups: list[Group] = field(default_factory=list)

    def start(self) -> Group:
        self.groups.append(group := Group(("cpu",), self.timeout, service=self.service, threads=1))
        return group

    @property
    def pids(self) -> list[int]:
        """Of all that were ever started."""
        return [pid for group in self.groups for pid in group.pids]


class Here:
    """A site with the places that a test puts there."""

    def __init__(self, *places: Place):
        self.there = list(places)

    def places(self) -> Sequence[Place]:
        return list(self.there)


def two(**arguments) -> Here:
    return Here(*(LocalPlace(f"box{i}/0", f"box{i}", **arguments) for i in (1, 2)))


class Memory:
    """A Watcher that keeps what it hears. on_draw: is called by the thread that runs it all."""

    def __init__(self, on_draw: Callable[[], None] = lambda: None):
        self.on_draw = on_draw
        self.did: list[tuple[str, str]] = []
        self.troubles: list[str] = []
        self.videos: list[tuple[str, str]] = []  # the file's name, and the machine
        self.errors: dict[int, str] = {}

    def doing(self, place: Place, what: str) -> None:
        self.did.append((place.name, what))

    def trouble(self, place: Place, what: str) -> None:
        self.troubles.append(f"{place.name}: {what}")

    def made(self, job: Job, place: Place, made: Made) -> None:
        self.videos.append((job.video.name, place.machine))

    def failed(self, job: Job, error: MochiError) -> None:
        assert job.line is not None and job.line not in self.errors
        self.errors[job.line] = str(error)

    def draw(self) -> None:
        self.on_draw()


def frames_of(video: Path) -> np.ndarray:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def results(*jobs: Job) -> list[str]:
    """The names of all that is left of these jobs."""
    return sorted(path.name for job in jobs for path in (job.video, job.record))


def record_of(job: Job) -> dict:
    return json.loads(job.record.read_text())
