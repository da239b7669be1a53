"""The videos of a run that are not made yet, and who may make which. Not for several threads at once."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from .cost import cost
from .job import Job
from .site import Place

ATTEMPTS = 3
"""How often a video is begun whose worker dies."""


@dataclass(eq=False)
class Task:
    """A video to make. failed: the places whose workers died over it, by name, and the machines of these."""

    job: Job
    failed: list[tuple[str, str]] = field(default_factory=list)

    def again(self, place: Place) -> int:
        """How near a place is to where this failed: 0 on another machine, 1 beside it, 2 in the very place."""
        names, machines = {name for name, _ in self.failed}, {machine for _, machine in self.failed}
        return 2 if place.name in names else 1 if place.machine in machines else 0

    def is_for(self, place: Place, places: Iterable[Place]) -> bool:
        """Whether none of these places is farther from where this failed."""
        return self.again(place) <= min((self.again(other) for other in places), default=2)


class Tasks:
    """The longest first. A task is waiting, or in the hands of one worker, or done, which it is once only.

    Attributes:
        left: how many are not done.
    """

    def __init__(self, jobs: Iterable[Job]):
        self._waiting = [Task(job) for job in sorted(jobs, key=lambda job: cost(job.settings), reverse=True)]
        self.left = len(self._waiting)

    def take(self, place: Place, places: Collection[Place]) -> Task | None:
        """The next task for a worker; None where all that wait are for others of the places that are used."""
        task = next((task for task in self._waiting if task.is_for(place, places)), None)
        if task is not None:
            self._waiting.remove(task)
        return task

    def needs(self, place: Place, working: Collection[Place], places: Collection[Place]) -> bool:
        """Whether another worker in that place has something to do, beside those in the places `working`."""
        if len(working) < self.left:
            return True
        for task in self._waiting:
            if task.is_for(place, places) and not any(task.is_for(other, places) for other in working):
                return True
        return False

    def done(self) -> None:
        """A task that was taken is made, or given up."""
        self.left -= 1

    def failed(self, task: Task, place: Place) -> bool:
        """A worker died over a task. Returns whether it is to be made again, and then it waits, before all others."""
        task.failed.append((place.name, place.machine))
        if len(task.failed) == ATTEMPTS:
            return False
        self._waiting.insert(0, task)
        return True

    def give_up(self) -> Iterator[Task]:
        """Take all that wait."""
        while self._waiting:
            yield self._waiting.pop()
