"""The process groups of some of the ranks."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from benchmarks.fake_group import fake_group
from mochi.parallel.split import Split
from mochi.parallel.spmd.mesh import Meshes
from mochi.parallel.spmd.vae import plan_strips
from mochi.parallel.worker.service import Rank


@pytest.fixture
def ranks(request):
    with fake_group(request.param):
        yield request.param


@pytest.mark.parametrize("ranks", [6], indirect=True)
def test_neighbours_share_a_pass(ranks):
    mesh = Meshes("cpu")[Split(cfg_degree=2, ulysses_degree=3)]
    among = {name: dist.get_process_group_ranks(mesh.get_group(name)) for name in Split._fields}
    assert among == {"cfg_degree": [1, 4], "ulysses_degree": [0, 1, 2]}


@pytest.mark.parametrize("ranks", [3], indirect=True)
def test_no_group_waits_longer_than_a_person_has_chosen(ranks, monkeypatch):
    chosen, new_group, seen = timedelta(seconds=77), dist.distributed_c10d.new_group, []

    def spy(*args, **options):
        seen.append(options.get("timeout"))
        return new_group(*args, **options)

    for module in (dist, dist.distributed_c10d):
        monkeypatch.setattr(module, "new_group", spy)
    rank = Rank(SimpleNamespace(device=torch.device("cpu"), timeout=chosen, machines=(0, 0, 0)))
    rank._meshes[Split(1, 3)]
    of_a_split = len(seen)
    rank._strips._ranks.borders(plan_strips(1, 2, 3))
    assert of_a_split > 0 and len(seen) == of_a_split + 1 and set(seen) == {chosen}
