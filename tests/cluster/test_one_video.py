"""One video over two machines of a Ray cluster: that of one device, files wherever they are, failures by name."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mochi.cluster import facts
from mochi.cluster.attach import attach, detach
from mochi.cluster.facts import check_versions
from mochi.cluster.files import bring
from mochi.cluster.weights import Hashes, files_of, wanted_files
from mochi.config import TINY_WEIGHTS
from mochi.errors import GroupError, MochiError
from mochi.model_dir import find_model
from mochi.parallel.protocol import GetStatus
from mochi.parallel.settings import ParallelSettings
from mochi.pipeline import GenerateSettings, Pipeline, load_pipeline
from mochi.sampling import Watch
from tests.exact import assert_close
from tests.raylets import Raylets, needs_ray, raylets

pytestmark = needs_ray

STEPS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    with raylets(2) as running:
        yield running
        detach()


@pytest.fixture(scope="module")
def over(cluster) -> Iterator[Pipeline]:
    """The tiny model over both machines."""
    pipeline = load_pipeline(None, parallel=ParallelSettings(cluster=cluster.address, timeout=60.0))
    yield pipeline
    pipeline.close()


def settings(**more) -> GenerateSettings:
    own = {"prompt": "a red circle moves left on a black background", "seed": 3, "steps": STEPS}
    return GenerateSettings.of(find_model(None).config.defaults, **{**own, **more})


def status(pipeline: Pipeline):
    return pipeline.denoiser._dit.manager.group.run(GetStatus())


@pytest.mark.parametrize("more", [{}, {"cfg": 1.0}, {"stg": 1.0}], ids=["guidance", "one pass", "three passes"])
def test_it_is_the_video_of_one_device(over, more):
    alone = load_pipeline(None)
    latents, expected = over.denoise(settings(**more)), alone.denoise(settings(**more))
    assert_close(latents, expected, 2e-6)
    frames = [torch.cat(list(pipeline.decode(expected))) for pipeline in (over, alone)]
    assert_close(frames[0], frames[1], 1e-6)


def test_guidance_crosses_machines_as_predictions_alone(over):
    """Both together send the two predictions of a step, once each."""
    before = sum(told.between for told in status(over))
    latents = over.denoise(settings())
    sent = sum(told.between for told in status(over)) - before
    assert sent == 2 * STEPS * latents.nbytes


def test_what_a_split_across_machines_costs_is_said(cluster, over, caplog):
    over.close()  # its ranks hold the machines' only processors; the next use starts others
    split = ParallelSettings(cluster=cluster.address, timeout=60.0, cfg_degree=1, ulysses_degree=2)
    pipeline = load_pipeline(None, parallel=split)
    latents = pipeline.denoise(settings())
    said = next(record.message for record in caplog.records if "spreads forward passes over machines" in record.message)
    assert "/s that were measured" in said
    pipeline.close()
    assert_close(latents, load_pipeline(None).denoise(settings()), 2e-6)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_and_the_next_request_works(over, victim):
    """Within ten seconds, with its machine, its device and what it was doing."""
    over.denoise(settings())
    pids, killed = over.denoiser._dit.manager.group.pids, []

    def kill(_) -> None:
        if not killed:
            os.kill(pids[victim], signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(GroupError) as failure:
        over.denoise(settings(steps=200), Watch(kill))
    assert time.monotonic() - killed[0] < 10
    machine = over.denoiser.devices[victim].partition(" of ")[2]
    first = str(failure.value).splitlines()[0]
    assert first.startswith(f"Rank {victim} of 2 (cpu of machine {machine}) is gone") and "while sampling" in first
    assert_close(over.denoise(settings()), load_pipeline(None).denoise(settings()), 2e-6)


def test_files_that_machines_lack_are_one_error_or_are_sent(cluster, tmp_path, monkeypatch):
    """The asking process alone has them: its own folder means another one in the processes of the machines."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY_WEIGHTS / "dit.safetensors", tmp_path / "other.safetensors")
    with (tmp_path / "other.safetensors").open("ab") as file:
        file.write(b"\0" * 8)  # behind the last tensor: nobody else has this content
    wanted = wanted_files([Path("/proc/self/cwd/other.safetensors")], Hashes(tmp_path))
    running = attach(cluster.address)
    machines, told = running.machines(), []
    with pytest.raises(MochiError) as failure:
        bring(running, machines, wanted, False, told.append)
    text = str(failure.value)
    assert "2 of 2 machines lack weights" in text and "/proc/self/cwd/other.safetensors is not there" in text
    assert all(machine.name in text for machine in machines) and not told
    trees = bring(running, machines, wanted, True, told.append)
    assert len(told) == 2 and all(machine.name in "".join(told) for machine in machines)
    for tree in trees:
        assert tree.local(wanted[0].path).read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    bring(running, machines, wanted, True, told.append)
    assert len(told) == 2  # once to a machine


def test_other_versions_are_one_error(cluster, monkeypatch):
    running = attach(cluster.address)
    machines = running.machines()
    check_versions(running, machines)
    monkeypatch.setattr(facts, "versions", lambda: {**own, "torch": "1.0"})
    own = running.call(machines, "cluster.facts:versions")[0]
    with pytest.raises(MochiError) as failure:
        check_versions(running, machines)
    assert f"machine {machines[1].name} has torch {own['torch']}" in str(failure.value)
    assert "which has Python" in str(failure.value) and "torch 1.0" in str(failure.value)


def test_another_model_comes_by_its_path(cluster, over, tmp_path):
    """A checkpoint of a person's own, in a folder that the machines see too."""
    over.close()
    for name in ("dit", "decoder"):
        shutil.copy(TINY_WEIGHTS / f"{name}.safetensors", tmp_path)
    shutil.copytree(TINY_WEIGHTS / "t5", tmp_path / "t5")
    model = find_model(tmp_path)
    assert files_of(model.dit)
    pipeline = load_pipeline(model, parallel=ParallelSettings(cluster=cluster.address, timeout=60.0))
    own = load_pipeline(replace(model))
    assert_close(pipeline.denoise(settings()), own.denoise(settings()), 2e-6)
    pipeline.close()
