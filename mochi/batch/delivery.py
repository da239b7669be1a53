"""A video of a run, from a worker to its place: checked, signed and written down, where that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..parallel.owner.group import Group
from ..parallel.protocol import Progress
from ..provenance import Signer
from ..safety import logged
from .job import Job
from .receive import receive
from .record import Recipe, write_record
from .requests import Made
from .seal import seal_for


@dataclass(frozen=True)
class Delivery:
    """What is done with all videos of a run. See `run_batch`.

    Attributes:
        log: where what workers block is written down, see `logged`; None: beside the video.
    """

    recipe: Recipe
    shared: bool = False
    signer: Signer | None = None
    log: Path | None = None

    def make(
        self, group: Group, machine: str, job: Job, hear: Callable[[Progress], None], check: Callable[[], None]
    ) -> Made:
        """Have a worker of a machine make a video, and write its record. See `receive` for what is raised."""
        seal = seal_for(self.signer, job.settings, self.recipe)
        with logged(self.log, job.output):
            made = receive(group, job, self.recipe.quality, self.shared, hear, check, seal)
        made = replace(made, facts={"machine": machine, **made.facts})
        write_record(job, self.recipe, made)
        return made
