"""Many videos over machines, measured: `python -m benchmarks.machines [--json]`, or `--soak 100` for what survives.

Starts a Ray cluster of its own on this machine, each of whose raylets counts as a machine with one processor. The
videos are the tiny model's. A rate is that of the steady part of a run, from the first video of a worker to its last.

--soak COUNT makes so many videos while a worker is killed every --kill-every seconds, and says what is left after it.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import add_option, report
from mochi.batch.cluster_site import ClusterSite, Needs
from mochi.batch.job import Job
from mochi.batch.record import Recipe
from mochi.batch.requests import LoadPipeline, Made
from mochi.batch.scheduler import run_batch
from mochi.batch.site import Place
from mochi.cluster.attach import attach, detach, import_ray
from mochi.config import TINY
from mochi.errors import MochiError
from mochi.settings import GenerateSettings

RECIPE = Recipe("tiny", "frames")
STORE = 200_000_000  # bytes of shared memory of each raylet


class Watch:
    """A Watcher that notes when each worker has made what."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.made_at: dict[str, list[tuple[float, float]]] = defaultdict(list)  # by place: when, seconds of work
        self.troubles: list[str] = []
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def doing(self, place: Place, what: str) -> None:
        """Nothing to note."""

    def trouble(self, place: Place, what: str) -> None:
        self.troubles.append(what)

    def made(self, job: Job, place: Place, made: Made) -> None:
        with self._lock:
            self.made_at[place.name].append((time.monotonic(), float(made.facts["seconds"])))

    def failed(self, job: Job, error: MochiError) -> None:
        self.errors.append(str(error))

    def draw(self) -> None:
        """Nothing to show."""

    @property
    def rate(self) -> float:
        """Videos a second of all workers, each from its first video to its last."""
        spans = [(len(made) - 1, made[-1][0] - made[0][0]) for made in self.made_at.values() if len(made) > 1]
        return sum(videos / seconds for videos, seconds in spans)

    @property
    def overhead(self) -> float:
        """Seconds from one video of a worker to its next, beside the work."""
        between = [(b[0] - a[0]) - b[1] for made in self.made_at.values() for a, b in pairwise(made)]
        return sum(between) / max(1, len(between))


class Some:
    """A site with its first places only."""

    def __init__(self, site: ClusterSite, count: int):
        self._site, self._count = site, count

    def places(self) -> Sequence[Place]:
        return self._site.places()[: self._count]


@contextmanager
def machines(count: int) -> Iterator[ClusterSite]:
    """A cluster with so many machines, as a site for the tiny model."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # else whatever else runs here goes first
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1, object_store_memory=STORE, include_dashboard=False)
        yield ClusterSite(attach(cluster.address), Needs((), (), 1, True, 0, 1, 120.0), print)
    finally:
        detach()
        cluster.shutdown()


def jobs_in(folder: Path, count: int, **settings: Any) -> list[Job]:
    folder.mkdir()
    own = replace(TINY.defaults, **settings)
    prompts = [f"a {colour} circle moves up on a black background" for colour in ("red", "blue", "green")]
    made = [GenerateSettings.of(own, prompt=prompts[number % 3], seed=number) for number in range(count)]
    return [Job(each, folder / f"{number:04}.mp4", number + 1) for number, each in enumerate(made)]


def run(site: Any, jobs: Sequence[Job]) -> Watch:
    watch = Watch()
    run_batch(jobs, site, LoadPipeline(), RECIPE, watch)
    return watch


def measure(count: int, steps: int, workers: Sequence[int]) -> dict[str, dict[str, float]]:
    """Rates of several numbers of workers, and what is lost beside the work."""
    figures: dict[str, dict[str, float]] = {}
    with machines(max(workers)) as site, tempfile.TemporaryDirectory() as folder:
        for number in workers:
            watch = run(Some(site, number), jobs_in(Path(folder, f"{number}"), count, steps=steps))
            figures[f"{number} workers"] = {"videos/s": watch.rate, "beside the work, ms": 1000 * watch.overhead}
        smallest = {"steps": 1, "width": 16, "height": 16, "frames": 7}
        watch = run(Some(site, 1), jobs_in(Path(folder, "smallest"), 4 * count, **smallest))
        figures["1 worker, 1 step of 16x16"] = {"videos/s": watch.rate, "beside the work, ms": 1000 * watch.overhead}
    first = figures[f"{workers[0]} workers"]["videos/s"]
    for name, row in figures.items():
        row["of the first"] = row["videos/s"] / first if "step" not in name else float("nan")
    return figures


def soak(count: int, steps: int, every: float, workers: int) -> dict[str, dict[str, Any]]:
    """What a run survives in which a worker is killed every so many seconds, and what is left after it."""
    with tempfile.TemporaryDirectory() as temporary, machines(workers) as site:
        folder, ended, killed = Path(temporary, "videos"), threading.Event(), []
        memory = [resident()]

        def kill() -> None:
            while not ended.wait(every):
                memory.append(resident())
                if victims := actors():
                    killed.append(victim := random.choice(victims))
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        watch = run(site, jobs_in(folder, count, steps=steps))
        ended.set()
        thread.join()
        time.sleep(2.0)
        videos, others = sorted(folder.glob("[0-9]*.mp4")), [*folder.glob(".*"), *scratch()]
        made = sum(map(len, watch.made_at.values()))
        return {
            "videos": {"asked for": count, "there": len(videos), "made": made, "failed": len(watch.errors)},
            "killed": {"workers": len(killed), "every, s": every, "videos made again": len(watch.troubles)},
            "left": {"actors": len(actors()), "files": len(others), "seconds in all": time.monotonic() - watch.started},
            "memory of the driver, MB": {"a third in": memory[len(memory) // 3] / 1e6, "in the end": memory[-1] / 1e6},
        }


def actors() -> list[int]:
    """The processes that hold actors of this run's machines, which are below this process."""
    parents, found = {}, []
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            stat = (process / "stat").read_text()
            parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
            if b"ray::Shell" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return [pid for pid in found if os.getpid() in _above(pid, parents)]


def _above(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def scratch() -> list[Path]:
    """What workers have left in the temporary folder."""
    return list(Path(tempfile.gettempdir()).glob("mochi-videos-*"))


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=24, help="of each run (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="of each video (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="to compare (default: 1 2)")
    parser.add_argument("--soak", type=int, metavar="COUNT", help="make so many videos while workers are killed")
    parser.add_argument("--kill-every", type=float, default=10.0, metavar="SECONDS", help="(default: %(default)s)")
    add_option(parser)
    options = parser.parse_args()
    if options.soak:
        figures = soak(options.soak, options.steps, options.kill_every, max(options.workers))
        report("Many videos while workers are killed", figures, options.json)
    else:
        report("Many videos over machines", measure(options.videos, options.steps, options.workers), options.json)


if __name__ == "__main__":
    main()
