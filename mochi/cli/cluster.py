"""`--ray` of the command line: one video over the machines of a cluster, or many videos on them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..batch.cluster_site import ClusterSite, Needs
from ..batch.display import Display
from ..batch.job import Job
from ..batch.record import Recipe
from ..batch.requests import LoadPipeline
from ..batch.scheduler import run_batch
from ..cluster.attach import AUTO, attach, check_address, detach, import_ray
from ..cluster.weights import absolute, files_of, files_of_model
from ..errors import MochiError
from ..model_dir import ModelDir
from ..parallel.actors.placement import gpus_of_each
from ..parallel.settings import ParallelSettings
from ..provenance import Signer
from .jobs import missing

MOST = 64
"""Workers of a machine, unless a person says otherwise."""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "several machines",
        "With --ray a prompt is made by several machines together, and the lines of --jsonl are made by workers on "
        "each; then --gpus is how many of each machine. See docs/cluster.md.",
    ).add_argument
    add(
        "--ray",
        nargs="?",
        const=AUTO,
        metavar="ADDRESS",
        help="use the Ray cluster that this machine takes part in (auto), or the one with its head at HOST:PORT",
    )
    add("--machines", type=int, default=0, metavar="COUNT", help="that make one video together (default: the best)")
    add("--workers", type=int, metavar="COUNT", help="on a machine at most, with --jsonl (default: as many as fit)")
    add("--interface", default="", metavar="NAME", help="of the network between machines (default: the one of Ray)")
    add("--send-weights", action="store_true", help="send weights to machines that lack them")
    add(
        "--shared",
        action="store_true",
        help="with --jsonl: outputs are on a path that all machines see, where workers write them",
    )


def check_options(options: argparse.Namespace) -> None:
    """Raise MochiError where options cannot work together, before anything is read or asked."""
    if options.ray is None:
        ours = ("machines", "workers", "interface", "send_weights", "shared")
        if names := [name for name in ours if getattr(options, name)]:
            raise MochiError(f"--{names[0].replace('_', '-')} is for several machines: add --ray")
        return
    check_address(options.ray)
    if options.device not in (None, "cpu"):
        raise MochiError("--device cannot be chosen with --ray, where --gpus says how many of each machine; cpu can")
    if options.jsonl is None and (options.shared or options.workers):
        raise MochiError("--workers and --shared are for --jsonl: one video has ranks, one for each GPU")
    if options.jsonl is not None and options.machines:
        raise MochiError("--machines is for one video: with --jsonl every machine of the cluster makes its own")
    if options.workers is not None and options.workers < 1:
        raise MochiError(f"workers is {options.workers}, but must be 1 or more")
    gpus_of_each(parallel_over(options))
    import_ray()


def parallel_over(options: argparse.Namespace) -> ParallelSettings:
    """How one video is spread over the machines of the cluster."""
    return ParallelSettings(
        options.gpus or "all",
        options.guidance,
        options.ulysses,
        options.weights,
        options.timeout,
        cpu=options.device == "cpu",
        cluster=options.ray,
        machines=options.machines,
        interface=options.interface,
        send_weights=options.send_weights,
    )


def parallel_of_worker(options: argparse.Namespace) -> ParallelSettings | None:
    """How a worker spreads each of its videos over GPUs of its machine; None where it has one."""
    gpus = _gpus_of_worker(options)
    degrees = options.guidance, options.ulysses, options.weights, options.timeout
    return None if gpus == 1 else ParallelSettings(str(gpus or "all"), *degrees, cpu=options.device == "cpu")


def _gpus_of_worker(options: argparse.Namespace) -> int:
    """0 is all of its machine's."""
    return 1 if options.gpus is None else gpus_of_each(parallel_over(options))


def make_on_machines(
    jobs: Sequence[Job],
    options: argparse.Namespace,
    model: ModelDir,
    load: LoadPipeline,
    recipe: Recipe,
    signer: Signer | None = None,
) -> dict[int, MochiError]:
    """Makes those videos that are not there yet. Returns what was wrong with lines that could not be made."""
    to_make, wrong = missing(jobs, recipe)
    for line, error in wrong.items():
        _say(f"error: {options.jsonl}, line {line}: {error}")
    if there := len(jobs) - len(to_make) - len(wrong):
        _say(f"{there} of {len(jobs)} videos are there already")
    if not to_make:
        return wrong
    try:
        cluster = attach(options.ray)
        site = ClusterSite(cluster, _needs(to_make, options, model, load), _say)
        _say(f"workers on {_count(site)}")
        with Display(len(to_make), options.jsonl) as display:
            return wrong | run_batch(to_make, site, load, recipe, display, options.shared, signer=signer)
    finally:
        detach()


def _needs(jobs: Sequence[Job], options: argparse.Namespace, model: ModelDir, load: LoadPipeline) -> Needs:
    files = [*files_of_model(model, encoder=any(job.settings.images for job in jobs), report=_hashing())]
    files += [file for path, _ in load.loras for file in files_of(path)]
    paths = [absolute(path) for path in (load.model, load.t5, *(path for path, _ in load.loras)) if path is not None]
    each, on_cpu = _gpus_of_worker(options), options.device == "cpu"
    memory = 0 if load.model is None else model.text_encoder.nbytes + model.decoder.nbytes
    most = options.workers or MOST
    return Needs(files, paths, each, on_cpu, memory, most, options.timeout, options.interface, options.send_weights)


def _hashing() -> Callable[[str, int, int], None]:
    """Tells once of each file that takes long to be hashed."""
    told: set[str] = set()

    def report(path: str, done: int, total: int) -> None:
        if path not in told and total > 1e9:
            told.add(path)
            _say(f"reading {Path(path).name} to compare it on other machines ({total / 1e9:.1f} GB)")

    return report


def _count(site: ClusterSite) -> str:
    machines: dict[str, int] = {}
    for place in site.places():
        machines[place.machine] = machines.get(place.machine, 0) + 1
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in machines.items()) or "no machine"


def _say(text: Any) -> None:
    print(text, file=sys.stderr)
