"""T5 on a device for as long as it encodes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mochi.text.visit import visiting
from mochi.transfer import Ferry

META = torch.device("meta")


def network() -> nn.Module:
    """With a parameter that two layers share, a buffer, and bytes that cannot be cast."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    model[0].weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.uint8), requires_grad=False)
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_elsewhere_only_inside(fails):
    model = network()
    home = dict(model.state_dict(keep_vars=True))
    with pytest.raises(ZeroDivisionError) if fails else torch.no_grad(), visiting(model, META):
        there = model.state_dict(keep_vars=True)
        assert {t.device for t in there.values()} == {META} and model[3].weight is model[2].weight
        assert all(type(t) is type(home[name]) and t.dtype == home[name].dtype for name, t in there.items())
        assert not fails or 1 / 0
    assert all(t is home[name] for name, t in model.state_dict(keep_vars=True).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.float8_e4m3fn, torch.int64])
def test_pieces_arrive_as_a_whole(monkeypatch, dtype):
    """And pinned memory is filled anew only when what was in it has arrived."""
    told: list[str] = []

    class Event:
        def __init__(self):
            self.name = f"half {len(told)}"
            told.append("made")

        def synchronize(self):
            told.append(f"waited for {self.name}")

        def record(self, stream):
            told.append(f"sent {self.name} on {stream}")

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**{**vars(torch.cuda), "Event": Event}))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    carry = Ferry(torch.device("cpu"), piece=16)
    for t in (torch.rand(5, 7).T, torch.rand(()), torch.rand(0, 3), torch.rand(1), torch.rand(32)):
        t = (t * 100).to(dtype)
        there = carry(t)
        assert there.dtype == dtype and there.shape == t.shape
        assert torch.equal(there.float(), t.float()) and (there.data_ptr() != t.data_ptr() or not t.numel())
    turns = [f"{did} half {half}{where}" for half in (0, 1) for did, where in (("waited for", ""), ("sent", " on cpu"))]
    assert told[:2] == ["made", "made"] and told[2:] == (turns * len(told))[: len(told) - 2]
