"""By which library ranks talk to each other."""

import pytest
import torch

from mochi.parallel.worker.loop import backend_for


@pytest.mark.parametrize(
    ("devices", "backend"),
    [
        (("cpu",), "gloo"),
        (("cpu", "cpu"), "gloo"),
        (("cuda:0",), "cpu:gloo,cuda:nccl"),
        (("cuda:0", "cuda:1"), "cpu:gloo,cuda:nccl"),
        (("cuda:0", "cuda:0"), "gloo"),  # NCCL: "Duplicate GPU detected"
    ],
)
def test_ranks_that_share_a_gpu_talk_over_gloo(devices, backend):
    assert {backend_for(torch.device(device), devices) for device in devices} == {backend}
