"""Many videos, made by a worker in each place of a site: whoever is free takes the longest that is left.

A thread for each worker asks it; the thread that calls `run_batch` looks for places and draws the progress. Where a
worker dies, its video is made elsewhere, and its place gets another worker.
"""

import math
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ..cluster.weights import absolute
from ..errors import Cancelled, GroupError, MochiError
from ..parallel.owner.group import Group
from ..parallel.owner.work import finish
from ..parallel.protocol import Progress
from ..provenance import Signer
from .delivery import Delivery
from .job import Job, check_names
from .record import Recipe
from .requests import LoadPipeline, Made
from .site import Place, Site
from .tasks import ATTEMPTS, Task, Tasks
from .watcher import Watcher

TICK = 0.2
"""Seconds between two looks at what changed."""

LOOK = 3.0
"""Seconds between two looks for places."""

STARTS, STARTS_AGAIN = 3, 10
"""Failed starts in a row after which a place is given up: before anything was made there, and after."""

PAUSE = 1.0
"""Seconds from a failed start to the next."""

GOODBYE = 60.0
"""Seconds for the threads to close their workers in the end. One that starts is not closed until it has started."""


def run_batch(
    jobs: Sequence[Job],
    site: Site,
    load: LoadPipeline,
    recipe: Recipe,
    watcher: Watcher,
    shared: bool = False,
    grace: float = 10.0,
    signer: Signer | None = None,
) -> dict[int, MochiError]:
    """Makes videos and their records. Returns what was wrong with those that could not be made, by their lines.

    Whatever is raised, KeyboardInterrupt too, all workers are closed, and nothing is left of unfinished videos. Raises
    MochiError, before anything starts, where two jobs would write the same file.

    Args:
        jobs: lines of a file, each with an output of its own; see also `record.remaining`.
        load: what each worker loads; its paths are made absolute, since workers are in other folders.
        recipe: the same, as a person asked for it, for the records.
        shared: whether workers write videos to their places themselves, on a path that all machines see.
        grace: seconds without any place to work in after which what is left is given up.
        signer: signs the videos here, as the recipe says.
    """
    check_names(jobs)
    loras = [(absolute(path), strength) for path, strength in load.loras]
    model, t5 = (path and Path(absolute(path)) for path in (load.model, load.t5))
    load = replace(load, model=model, t5=t5, loras=loras)
    delivery = Delivery(recipe, shared, signer, None if load.safety is None else load.safety.log)
    batch = _Batch(jobs, site, load, delivery, watcher, grace)
    try:
        batch.run()
    finally:
        batch.stop()
        watcher.draw()
    return batch.wrong


class _Batch:
    """The state of a run. `_change` guards it, and is notified of what others wait for."""

    def __init__(
        self,
        jobs: Sequence[Job],
        site: Site,
        load: LoadPipeline,
        delivery: Delivery,
        watcher: Watcher,
        grace: float,
    ):
        self.wrong: dict[int, MochiError] = {}
        self._site, self._load, self._delivery, self._watcher, self._grace = site, load, delivery, watcher, grace
        self._tasks = Tasks(jobs)
        self._change = threading.Condition()
        self._places: list[Place] = []  # those that there are, but for those given up
        self._given_up: set[str] = set()  # by name, as long as they are there
        self._working: dict[str, tuple[Place, threading.Thread]] = {}
        self._proven: set[str] = set()  # the names of places where something was made
        self._last_trouble = ""
        self._stopped = False
        self._crash: BaseException | None = None

    # --- the thread that runs it all

    def run(self) -> None:
        """Until all are made or given up."""
        looked, hopeless = -LOOK, math.inf  # when places were looked for, and since when there has been none
        while True:
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                self._look(self._places_there())
            self._watcher.draw()
            with self._change:
                if self._crash is not None:
                    raise self._crash
                if not self._tasks.left:
                    return
                has_place = bool(self._places or self._working)
                hopeless = math.inf if has_place else min(hopeless, time.monotonic())
                self._start_workers()
                self._change.wait(TICK)
            if time.monotonic() - hopeless > self._grace:
                self._give_up()

    def stop(self) -> None:
        """Close all workers."""
        with self._change:
            self._stopped = True
            threads = [thread for _, thread in self._working.values()]
            self._change.notify_all()
        end = time.monotonic() + GOODBYE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _places_there(self) -> Sequence[Place]:
        """Those of the site; none while nobody can tell, which may pass."""
        try:
            return self._site.places()
        except ConnectionError as error:
            self._last_trouble = str(error)
            return ()

    def _look(self, found: Sequence[Place]) -> None:
        with self._change:
            self._given_up &= {place.name for place in found}
            self._places = [place for place in found if place.name not in self._given_up]

    def _start_workers(self) -> None:
        for place in self._places:
            working = [other for other, _ in self._working.values()]
            if place.name not in self._working and self._tasks.needs(place, working, self._places):
                name = f"mochi-worker-{place.name}"
                thread = threading.Thread(target=self._work, args=[place], name=name, daemon=True)
                thread.start()  # it waits for the lock
                self._working[place.name] = place, thread

    def _give_up(self) -> None:
        """There is no place left."""
        with self._change:
            left = list(self._tasks.give_up())
        for task in left:
            why = f": {self._last_trouble}" if self._last_trouble else ""
            self._end(task, MochiError(f"not made, since no place to work in is left{why}"))

    # --- a worker's thread

    def _work(self, place: Place) -> None:
        """Keep a worker in a place, as long as it is needed there."""
        try:
            failures = 0
            while self._is_wanted(place):
                place = self._as_it_is_now(place)
                try:
                    group = self._start(place)
                except (GroupError, OSError) as error:
                    failures += 1
                    self._start_failed(place, error, final=failures >= self._patience_with(place))
                except MochiError as error:
                    self._start_failed(place, error, final=True)  # the same would be wrong next time
                else:
                    failures = 0
                    with closing(group):
                        self._serve(place, group)
        except Cancelled:
            pass  # the run is stopped
        except BaseException as error:
            self._crash = self._crash or error
        finally:
            self._watcher.doing(place, "")
            with self._change:
                self._working.pop(place.name, None)
                self._change.notify_all()

    def _as_it_is_now(self, place: Place) -> Place:
        """The place of that name: its machine may have come back as another one."""
        with self._change:
            return next((other for other in self._places if other.name == place.name), place)

    def _is_wanted(self, place: Place, running: bool = False) -> bool:
        """Whether a place is to have a worker; one that runs stays until all is made, in case another dies."""
        with self._change:
            if self._stopped or not self._tasks.left or place.name not in {other.name for other in self._places}:
                return False
            others = [other for other, _ in self._working.values() if other.name != place.name]
            return running or self._tasks.needs(place, others, self._places)

    def _start(self, place: Place) -> Group:
        self._watcher.doing(place, "starting")
        group = place.start()
        try:
            self._watcher.doing(place, "loading")
            finish(group.stream(self._load), check=self._check)
        except BaseException:
            group.close()
            raise
        return group

    def _patience_with(self, place: Place) -> int:
        """A place that has worked once works again, whatever has just hit it."""
        with self._change:
            return STARTS_AGAIN if place.name in self._proven else STARTS

    def _start_failed(self, place: Place, error: Exception, final: bool) -> None:
        self._watcher.doing(place, "")
        self._watcher.trouble(place, f"no worker starts there{', it is given up' if final else ''}: {error}")
        self._last_trouble = f"{place.name}: {error}"
        with self._change:
            if final:
                self._given_up.add(place.name)
                self._places = [other for other in self._places if other.name != place.name]
                self._change.notify_all()
            else:
                self._change.wait_for(lambda: self._stopped, PAUSE)

    def _serve(self, place: Place, group: Group) -> None:
        """Have a worker make one video after the other. Returns when it is dead, or when there is nothing left."""
        while group.alive:
            task = self._next(place)
            if task is not None:
                try:
                    made = self._make(place, group, task.job)
                except MochiError as error:
                    self._end(task, error)
                except GroupError as error:
                    self._died(task, place, error)
                    return
                else:
                    self._watcher.made(task.job, place, made)
                    with self._change:
                        self._proven.add(place.name)
                    self._end(task)
            elif not self._is_wanted(place, running=True):
                return

    def _next(self, place: Place) -> Task | None:
        """A task, as soon as there is one for this place; None after a while without."""
        with self._change:
            if self._stopped:
                return None
            task = self._tasks.take(place, self._places)
            if task is None and self._tasks.left:
                self._watcher.doing(place, "waiting")
                self._change.wait(LOOK)
            return task

    def _make(self, place: Place, group: Group, job: Job) -> Made:
        def hear(told: Progress) -> None:
            self._watcher.doing(place, f"{job.video.name} {told.phase}")

        self._watcher.doing(place, job.video.name)
        return self._delivery.make(group, place.machine, job, hear, self._check)

    def _check(self) -> None:
        if self._stopped:
            raise Cancelled("the run is stopped")

    def _died(self, task: Task, place: Place, error: GroupError) -> None:
        self._watcher.doing(place, "")
        with self._change:
            again = self._tasks.failed(task, place)
            self._change.notify_all()
        if again:
            first = str(error).partition("\n")[0]
            self._watcher.trouble(place, f"{task.job.video.name} is made again, since its worker died: {first}")
            return
        where = ", ".join(name for name, _ in task.failed)
        self._end(task, MochiError(f"its worker died {ATTEMPTS} times, in {where}; the last time: {error}"))

    def _end(self, task: Task, error: MochiError | None = None) -> None:
        """A task is made, or will not be."""
        if error is not None:
            assert task.job.line is not None  # see run_batch
            self.wrong[task.job.line] = error
            self._watcher.failed(task.job, error)
        with self._change:
            self._tasks.done()
            self._change.notify_all()
