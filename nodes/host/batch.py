"""The run of many videos on a cluster, in the node that asks for it."""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths

from ...mochi.batch.cluster_site import ClusterSite, Needs
from ...mochi.batch.job import Job
from ...mochi.batch.record import Recipe
from ...mochi.batch.requests import LoadPipeline, Made
from ...mochi.batch.scheduler import run_batch
from ...mochi.batch.site import Place
from ...mochi.cluster.attach import attach
from ...mochi.cluster.weights import absolute, files_of_model
from ...mochi.errors import MochiError
from ...mochi.model_dir import ModelDir
from ...mochi.parallel.settings import TIMEOUT
from ...mochi.provenance import Signer
from .output import show_all
from .progress import show_now, show_text
from .ranks.group import groups

MOST = 64
"""Workers of a machine."""


class Shown:
    """A Watcher that shows in the node what machines do, and each video as it comes. A cancel ends the run.

    Args:
        there: jobs whose videos were there before.
        total: how many videos are to be made.
    """

    def __init__(self, there: Sequence[Job], total: int):
        self.there, self.total = len(there), total
        self.made_by: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._doing: dict[str, dict[str, str]] = {}  # by machine and place
        self._trouble = ""
        self._ended = self._shown = 0
        self._new: list[Path] = []
        self._videos = [job.video for job in there]
        self._text = ""
        self._bar = comfy.utils.ProgressBar(max(1, total))

    def doing(self, place: Place, what: str) -> None:
        with self._lock:
            self._doing.setdefault(place.machine, {})[place.name] = what

    def trouble(self, place: Place, what: str) -> None:
        with self._lock:
            self._trouble = f"{place.name}: {what}".partition("\n")[0]

    def made(self, job: Job, place: Place, made: Made) -> None:
        with self._lock:
            self._ended += 1
            self.made_by[place.machine] += 1
            self._new.append(job.video)

    def failed(self, job: Job, error: MochiError) -> None:
        with self._lock:
            self._ended += 1
            self._trouble = f"line {job.line}: {error}".partition("\n")[0]

    def draw(self) -> None:
        """Raises the host's interrupt when the user cancels."""
        with self._lock:
            new, self._new = self._new, []
            text, ended = self._in_words(), self._ended
        if new:
            self._videos = [*reversed(new), *self._videos]  # the newest first, which is what the node plays
            show_now(show_all(self._videos))
        if ended != self._shown:
            self._shown = ended
            self._bar.update_absolute(ended, self.total)
        if text != self._text:
            self._text = text
            show_text(text)
        mm.throw_exception_if_processing_interrupted()

    def _in_words(self) -> str:
        lines = []
        for machine, places in sorted(self._doing.items()):
            doing = " | ".join(what for _, what in sorted(places.items()) if what)
            lines.append(f"{machine}: {self.made_by[machine]} made{f', {doing}' if doing else ''}")
        # A node shows a few lines, and the first ones most surely.
        text = f"{self._ended} of {self.total} videos · " + ";\n".join(lines)
        return f"{text};\n{self._trouble}" if self._trouble else text


def make_on_cluster(
    jobs: Sequence[Job],
    load: LoadPipeline,
    recipe: Recipe,
    model: ModelDir,
    address: str,
    gpus: int,
    send_weights: bool,
    shown: Shown,
    signer: Signer | None = None,
) -> dict[int, MochiError]:
    """Make videos. Returns what was wrong with those that could not be made, by their lines.

    Models of this process and of its group make room: the workers of this machine use the same devices.
    Raises MochiError where the cluster, or what it must have, is not there.
    """
    cluster = attach(address)
    mm.unload_all_models()
    mm.soft_empty_cache()
    groups.close()
    show_text("looking for the model's files on all machines")
    site = ClusterSite(cluster, _needs(jobs, load, model, gpus, send_weights), show_text)
    return run_batch(jobs, site, load, recipe, shown, signer=signer)


def _needs(jobs: Sequence[Job], load: LoadPipeline, model: ModelDir, gpus: int, send: bool) -> Needs:
    files = files_of_model(model, encoder=any(job.settings.images for job in jobs), report=_hashing)
    paths = [absolute(path) for path in (load.model, load.t5) if path is not None]
    memory = 0 if load.model is None else model.text_encoder.nbytes + model.decoder.nbytes
    return Needs(files, paths, gpus, load.device == "cpu", memory, MOST, TIMEOUT, send=send)


def _hashing(path: str, done: int, total: int) -> None:
    """Hears how far a file is read, which takes long once, and lets a person cancel."""
    mm.throw_exception_if_processing_interrupted()
    show_text(f"reading {Path(path).name} to compare it on other machines: {100 * done / max(1, total):.0f} %")


def model_folder(name: str) -> Path | None:
    """The folder that a widget names, below ComfyUI's models where that is not absolute; None where it names none."""
    return Path(folder_paths.models_dir, name.strip()) if name.strip() else None


def report(shown: Shown, seconds: float) -> str:
    """What has become of a run, in words."""
    made = ", ".join(f"{machine} made {count}" for machine, count in sorted(shown.made_by.items()))
    there = f"{shown.there} were there already" if shown.there else ""
    return "; ".join(filter(None, [made, there])) + f" ({seconds:.0f} s)"
