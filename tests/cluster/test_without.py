"""Without a cluster: nothing of Ray is imported, nothing listens, and what cannot be is said before anything starts."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mochi.batch.cluster_site import Needs, posts_on
from mochi.cluster import attach
from mochi.cluster.attach import check_address, import_ray
from mochi.cluster.machines import Machine
from mochi.errors import MochiError
from mochi.model_dir import find_model
from mochi.parallel.actors.placement import place_ranks
from mochi.parallel.plan import plan_dit
from mochi.parallel.protocol import LoadDiT
from mochi.parallel.settings import ParallelSettings
from tests.raylets import needs_ray

PROJECT = Path(__file__).parents[2]

MAKE_ONE = """
import sys
from pathlib import Path
from mochi.cli.main import main
from tests.parallel.helpers import listening_outside_loopback
import os
small = ["--steps", "1", "--width", "32", "--height", "32", "--frames", "7", "--seed", "1", *sys.argv[2:]]
code = main(["generate", "a red circle", "--output", sys.argv[1], *small])
assert code == 0, code
assert not listening_outside_loopback(os.getpid())
print("ray" in sys.modules)
"""


def run(tmp_path: Path, *options: str) -> str:
    command = [sys.executable, "-c", MAKE_ONE, str(tmp_path / "a.png"), *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_a_video_imports_no_ray_and_nothing_listens(tmp_path):
    assert run(tmp_path) == "False"


def test_where_ray_is_not_installed_the_option_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    from mochi.cli.main import main

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(attach.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MochiError, match="pip install ray"):
        attach.check_installed()
    assert main(["generate", "a prompt", "--ray", "--output", str(tmp_path / "a.mp4")]) == 2
    assert "pip install ray" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--machines", "2"], "add --ray"),
        (["--send-weights"], "--send-weights is for several machines: add --ray"),
        (["--ray", "ray://10.0.0.1:10001"], "must be auto or HOST:PORT"),
        (["--ray", "somewhere"], "must be auto or HOST:PORT"),
        (["--ray", "--device", "cuda:1"], "--device cannot be chosen with --ray"),
        (["--ray", "--gpus", "0,1"], "how many of each machine"),
        (["--ray", "--workers", "2"], "are for --jsonl"),
    ],
)
def test_options_that_cannot_be(options, said, capsys, monkeypatch):
    from mochi.cli.main import main

    monkeypatch.setattr("mochi.cli.cluster.import_ray", lambda: None)
    assert main(["generate", "a prompt", *options]) == 2
    assert said in capsys.readouterr().err


@needs_ray
def test_where_no_cluster_answers_the_error_says_how_to_start_one():
    with pytest.raises(MochiError, match=r"No Ray cluster answers at 127.0.0.1:1 .*ray start --head --port=1"):
        attach.attach("127.0.0.1:1")


def test_addresses():
    for good in ("auto", "10.0.0.1:6379", "head.local:6379", "[fe80::1]:6379"):
        check_address(good)
    for bad in ("", "10.0.0.1", "10.0.0.1:port", "http://10.0.0.1:6379"):
        with pytest.raises(MochiError, match="auto or HOST:PORT"):
            check_address(bad)


def machine(name: str, gpus: int = 0, cpus: int = 8) -> Machine:
    return Machine(name, name, "10.0.0.1", 1, gpus, cpus, 10**11)


def test_ranks_are_placed_machine_by_machine():
    boxes = [machine("head"), machine("a", 4), machine("b", 8), machine("c", 1)]

    def placed(**chosen) -> list[str]:
        return [post.machine.name for post in place_ranks(boxes, ParallelSettings(cluster="auto", **chosen))]

    assert placed(gpus="4") == ["a"] * 4 + ["b"] * 4  # the head has none, and c too few
    assert placed(gpus="all", machines=1) == ["b"] * 8  # the one that has most
    assert placed(gpus="all") == ["b"] * 4 + ["a"] * 4  # as many on each
    assert placed(gpus="1", machines=3) == ["a", "b", "c"]
    assert placed(gpus="2", cpu=True) == ["head"] * 2 + ["a"] * 2
    with pytest.raises(MochiError, match=r"3 machines with 4 GPUs or more are asked for, but 2 are .*c \(1 GPUs\)"):
        placed(gpus="4", machines=3)
    with pytest.raises(MochiError, match="how many of each machine"):
        placed(gpus="0,1")


@pytest.mark.parametrize(("gpus", "each"), [(5, 4), (7, 6), (16, 12)])
def test_the_number_of_gpus_that_heads_divide_by_is_taken(gpus, each):
    posts = place_ranks([machine("a", gpus), machine("b", gpus + 1)], ParallelSettings(cluster="auto"))
    assert [post.machine.name for post in posts] == ["b"] * each + ["a"] * each


def test_one_gpu_a_machine_shares_its_weights_with_nobody():
    plan = find_model(None).dit.plan("dit")
    request = LoadDiT(Path("dit"), None, None)

    def planned(machines: tuple[int, ...], sharding: str = "sharded") -> str:
        chosen = ParallelSettings(cluster="auto", sharding=sharding)
        return plan_dit(request, plan.model, chosen, ["cpu"] * len(machines), 2, machines, 10**6).request.sharding

    assert planned((0, 0, 1, 1)) == "sharded" and planned((0, 0, 1, 1), "auto") == "sharded"  # 1 MB is too small
    for sharding in ("sharded", "auto"):
        with pytest.raises(MochiError, match="here each has one"):
            planned((0, 1), sharding)


def test_workers_get_the_gpus_that_they_need():
    needs = Needs((), (), 2, False, 30 * 10**9, 64, 60.0)
    assert [post.gpus for post in posts_on(machine("a", 8), needs)] == [2] * 3  # memory for three
    assert [post.gpus for post in posts_on(machine("a", 8), replace(needs, gpus=0))] == [8]
    assert [post.gpus for post in posts_on(machine("a", 8), replace(needs, most=1))] == [2]
    assert [(post.device, post.threads) for post in posts_on(machine("a"), needs)] == [("cpu", 8)]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_is_found_where_it_is():
    assert import_ray().__name__ == "ray"
