"""A cluster of machines behind a running ComfyUI: previews, cancel, memory, and what becomes of a prompt when a process
or a machine is gone.
"""

import copy
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.client import ComfyClient, PromptFailed, PromptRejected
from scripts.comfyui import PROJECT, prepare_base
from scripts.server import ComfyServer
from tests.host.test_parallel_server import Status, node, status_in
from tests.raylets import Raylets, needs_ray, raylets

TINY = json.loads((PROJECT / "workflows" / "api" / "tiny_on_two_ranks.json").read_text(encoding="utf-8"))
LONG = 900  # steps of a prompt that something happens to
SETTINGS = {"gpus": "all", "guidance": "auto", "ulysses": 0, "weights": "auto", "timeout": 60.0}
WITHIN = 10  # seconds from a death to the error

pytestmark = [needs_ray, pytest.mark.slow]


def tiny(address: str, **widgets) -> dict:
    """The workflow over the machines of a cluster."""
    prompt = copy.deepcopy(TINY)
    settings = {**SETTINGS, "cluster": address, "machines": 0, "interface": ""}
    chosen = {name: value for name, value in widgets.items() if name in settings}
    prompt["50"] = {"class_type": "MochiParallelSettings", "inputs": settings | chosen}
    for loader in ("MochiParallelLoadDiT", "MochiParallelLoadVAE"):
        prompt[node(prompt, loader)]["inputs"]["parallel"] = ["50", 0]
    of_sampler = {name: value for name, value in widgets.items() if name not in settings}
    prompt[node(prompt, "MochiParallelSampler")]["inputs"] |= {"steps": 3, "frames": 7, **of_sampler}
    return prompt


def run(client: ComfyClient, prompt: dict, on_event=None) -> Status:
    return status_in(client.run(prompt, on_event, timeout=300))


def at_second_step(act):
    """An ear for events that acts once, in the middle of a run. Returns it, and the times at which it has acted."""
    times: list[float] = []

    def hear(kind, data):
        if kind == "progress" and data["value"] == 2 and not times:
            times.append(time.monotonic())
            act()

    return hear, times


@pytest.fixture(scope="module")
def cluster() -> Iterator[Raylets]:
    with raylets(2) as running:
        yield running


@pytest.fixture(scope="module")
def another() -> Iterator[Raylets]:
    """A cluster that is there when the other one has ended."""
    with raylets(2) as running:
        yield running


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """The temporary folder of the server."""
    with tempfile.TemporaryDirectory(prefix="mochi-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def server(
    comfyui_path: Path, cluster: Raylets, temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server of its own: once attached to a cluster, Ray stays in it."""
    base = prepare_base(tmp_path_factory.mktemp("cluster"))
    environment = {"TMPDIR": str(temporary), "RAY_ADDRESS": cluster.address}  # which "auto" stands for, at first
    with ComfyServer(comfyui_path, base, cpu=True, extra=["--cache-classic"], environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return ComfyClient(server.url)


def test_an_address_at_which_nothing_answers(client):
    """Before any that does: the server is not attached by it."""
    with pytest.raises(PromptFailed, match=r"No Ray cluster answers at 127.0.0.1:1 .*ray start --head") as failure:
        run(client, tiny("127.0.0.1:1"))
    assert failure.value.details["node_type"] == "MochiParallelSettings"


@pytest.mark.parametrize("widget, value", [("cluster", "ray://127.0.0.1:10001"), ("gpus", "0,1")])
def test_what_cannot_be_is_refused_at_its_widget(client, cluster, widget, value):
    with pytest.raises(PromptRejected) as refusal:
        client.queue(tiny(cluster.address, **{widget: value}) if widget == "gpus" else tiny(value))
    (of_node,) = refusal.value.details["node_errors"].values()
    assert of_node["class_type"] == "MochiParallelSettings"
    assert [error["extra_info"]["input_name"] for error in of_node["errors"]] == [widget]


def test_previews_and_machines_of_the_status(client, cluster):
    previews = []
    status = run(client, tiny(cluster.address, seed=1), lambda kind, data: previews.append(kind == "preview"))
    assert sum(previews) == 3
    assert [cluster.number_of(pid) for pid in status.pids] == [0, 1]
    names = re.findall(r"rank \d: cpu of (\S+), process", status.text)
    assert len(set(names)) == 2 and "guidance 2 x Ulysses 1" in status.text
    assert set(status.loads.values()) == {1}


def test_cancel_leaves_the_actors(client, cluster):
    before = run(client, tiny(cluster.address, seed=2))
    hear, _ = at_second_step(client.interrupt)
    with pytest.raises(PromptFailed) as failure:
        run(client, tiny(cluster.address, steps=LONG, seed=3), hear)
    assert failure.value.interrupted
    after = run(client, tiny(cluster.address, seed=4))
    assert after.pids == before.pids and after.loads == before.loads


def test_free_unloads_and_the_next_prompt_loads(client, cluster):
    before = run(client, tiny(cluster.address, seed=5))
    client.free()
    after = run(client, tiny(cluster.address, seed=6))
    assert after.pids == before.pids
    assert set(after.loads) == set(before.loads)
    assert set(after.loads.values()) == {1}  # of new models, since the host has dropped the old ones


def test_a_killed_actor_ends_the_prompt_and_not_more(client, cluster):
    before = run(client, tiny(cluster.address, seed=7))
    hear, killed = at_second_step(psutil.Process(before.pids[1]).kill)
    machine = re.findall(r"rank 1: cpu of (\S+), process", before.text)[0]
    words = rf"Rank 1 of 2 \(cpu of machine {machine}\) is gone.* while sampling, step \d+ of {LONG}"
    with pytest.raises(PromptFailed, match=words):
        run(client, tiny(cluster.address, steps=LONG, seed=8), hear)
    assert time.monotonic() - killed[0] < WITHIN
    after = run(client, tiny(cluster.address, seed=9))
    assert len(after.pids) == 2 and not set(before.pids) & set(after.pids)
    assert not any(map(psutil.pid_exists, before.pids))


def test_a_machine_that_is_gone_ends_the_prompt_and_the_next_is_made_by_the_others(client, cluster):
    before = run(client, tiny(cluster.address, seed=10))
    hear, killed = at_second_step(lambda: cluster.kill(1))
    machine = re.findall(r"rank 1: cpu of (\S+), process", before.text)[0]
    with pytest.raises(PromptFailed, match=rf"Rank 1 of 2 \(cpu of machine {machine}\) is gone.* while sampling, step"):
        run(client, tiny(cluster.address, steps=LONG, seed=11), hear)
    assert time.monotonic() - killed[0] < WITHIN
    after = run(client, tiny(cluster.address, seed=12))
    assert [cluster.number_of(pid) for pid in after.pids] == [0]
    cluster.add()


def test_more_machines_than_there_are(client, cluster):
    with pytest.raises(PromptFailed, match=r"9 machines are asked for, but 2 are in the cluster. It has: ") as failure:
        run(client, tiny(cluster.address, machines=9))
    assert failure.value.details["node_type"] == "MochiParallelSettings"


def _has_ray(server: ComfyServer) -> bool:
    return any("_raylet" in mapped.path for mapped in psutil.Process(server.process.pid).memory_maps())


def test_ray_is_not_in_a_server_that_is_not_asked_for_a_cluster(comfy, server):
    prompt = copy.deepcopy(TINY)
    for loader in ("MochiParallelLoadDiT", "MochiParallelLoadVAE"):
        prompt[node(prompt, loader)]["inputs"]["gpus"] = "1"
    prompt[node(prompt, "MochiParallelSampler")]["inputs"] |= {"steps": 1, "frames": 7}
    comfy.client.run(prompt, timeout=300)
    assert _has_ray(server) and not _has_ray(comfy.server)


def test_the_server_outlives_the_ray_of_its_own_machine(server, client, cluster, another):
    """And attaches to the cluster that is there when the next prompt is queued.

    The group has had one rank since a machine was gone: one that has come back is used when ranks start anew.
    """
    run(client, tiny(cluster.address, seed=13))
    hear, killed = at_second_step(lambda: cluster.kill(0))
    with pytest.raises(PromptFailed, match=r"Rank 0 of 1 \(cpu of machine \S+\) is gone.* while sampling, step"):
        run(client, tiny(cluster.address, steps=LONG, seed=14), hear)
    assert time.monotonic() - killed[0] < WITHIN
    with pytest.raises(PromptFailed, match=f"No Ray cluster answers at {cluster.address}"):
        run(client, tiny(cluster.address, seed=15))
    after = run(client, tiny(another.address, seed=16))
    assert [another.number_of(pid) for pid in after.pids] == [0, 1]
    assert server.process.poll() is None


def test_actors_end_with_a_killed_server(server, client, another, temporary):
    """The last one, since the server is that of the others. No file is left."""
    actors = [psutil.Process(pid) for pid in run(client, tiny(another.address, seed=17)).pids]
    server.process.kill()
    _, alive = psutil.wait_procs(actors, timeout=10)
    assert len(actors) == 2 and not alive
    assert not another.left_over() and not list(temporary.iterdir())
