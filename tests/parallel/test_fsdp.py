"""What FSDP2 is given and what it keeps, seen from one rank of two whose collectives do nothing."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from benchmarks.fake_group import fake_group
from mochi.errors import MochiError
from mochi.parallel.settings import ParallelSettings
from mochi.parallel.spmd.fsdp import ShardedLayout
from mochi.parallel.worker.weights import RankWeights
from tests.parallel.dit_groups import weight_file

checkpoint = weight_file()


@pytest.fixture
def rank_of_two():
    with fake_group(2, rank=0):
        yield


@torch.inference_mode()
def test_offloaded_rows_stay_in_host_memory():
    """FSDP2 refuses to run with parameters that lie elsewhere."""
    mesh = DeviceMesh("cuda", [0, 1], _init_backend=False, _rank=0)
    shape = torch.Size((5, 4))
    spec = DTensorSpec(mesh, (Shard(0),), TensorMeta(shape, (4, 1), torch.float32))
    parameter = DTensor(torch.empty(3, 4, device="meta"), spec, requires_grad=False)
    layout = SimpleNamespace(_offload=True, _pin=False)
    for rows in (torch.randn(3, 4), torch.randn(3, 4)):  # as loaded, then as patched
        placed = ShardedLayout.place(layout, parameter, rows)
        assert placed.to_local().device.type == "cpu" and torch.equal(placed.to_local(), rows)
        assert placed.shape == shape and placed.placements == (Shard(0),) and not placed.requires_grad
        parameter = placed


@torch.inference_mode()
def test_nothing_is_kept_for_a_backward_pass(rank_of_two, checkpoint):
    model = RankWeights(checkpoint, None, None, "cpu", "sharded").model
    for _ in range(3):
        text = model.encode_text(torch.zeros(1, 256, 64), torch.ones(1, 256, dtype=torch.bool))
        assert isinstance(model(torch.zeros(1, 12, 1, 2, 2), torch.ones(1), text), Tensor)
        state = model._get_fsdp_state()
        assert not state._comm_ctx.post_forward_order
        groups = [group for block in model.blocks for group in param_groups(block)]
        assert len(groups) == len(model.blocks) and not any(group._post_forward_indices for group in groups)


def param_groups(block: torch.nn.Module) -> list:
    state = block._get_fsdp_state()
    return state._fsdp_param_groups if hasattr(state, "_fsdp_param_groups") else [state._fsdp_param_group]


@pytest.mark.parametrize("version", ["2.9.1+cu128", "2.10.0a0+git12"])
def test_a_torch_that_is_too_old_to_shard(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    assert ParallelSettings("2", sharding="replicated").sharding_for(1) == "replicated"
    with pytest.raises(MochiError, match=rf"torch 2\.11 or newer.*{version[:4]}"):
        ParallelSettings("2", sharding="sharded").sharding_for(1)


@pytest.mark.parametrize("version", ["2.11.0a0+nv26.02", "2.14.1+cu130", "3.0"])
def test_a_torch_that_is_new_enough(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    assert ParallelSettings("2", sharding="offloaded").sharding_for(1) == "offloaded"
