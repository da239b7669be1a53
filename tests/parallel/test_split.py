"""Which splits there are, which is chosen, and which devices a person means."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.parallel.settings import ParallelSettings
from mochi.parallel.split import Split, choose_split, splits, usable_ranks
from mochi.parallel.spmd.vae import plan_strips


@given(ranks=st.integers(1, 64), heads=st.integers(1, 48), passes=st.integers(1, 2))
def test_a_chosen_split_keeps_all_ranks_busy(ranks, heads, passes):
    if not splits(ranks, heads):
        with pytest.raises(MochiError, match="heads"):
            choose_split(ranks, heads, passes)
        assert usable_ranks(ranks, heads) < ranks
        return
    split = choose_split(ranks, heads, passes)
    assert split.ranks == ranks and heads % split.ulysses_degree == 0 and split.cfg_degree in (1, 2)
    assert usable_ranks(ranks, heads) == ranks


@pytest.mark.parametrize(
    ("ranks", "guided", "single"),
    [
        (1, (1, 1), (1, 1)),
        (2, (2, 1), (1, 2)),
        (3, (1, 3), (1, 3)),
        (4, (2, 2), (1, 4)),
        (8, (2, 4), (1, 8)),
        (16, (2, 8), (2, 8)),
    ],
)
def test_guidance_first_when_there_are_two_passes(ranks, guided, single):
    assert choose_split(ranks, 24, 2) == guided
    assert choose_split(ranks, 24, 1) == single


def test_degrees_can_be_chosen():
    assert choose_split(4, 24, 2, cfg_degree=1) == Split(1, 4)
    assert choose_split(4, 24, 1, ulysses_degree=2) == Split(2, 2)
    with pytest.raises(
        MochiError, match=r"guidance 2 x Ulysses 3.*Possible: guidance 2 x Ulysses 2 or guidance 1 x Ulysses 4"
    ):
        choose_split(4, 24, 2, cfg_degree=2, ulysses_degree=3)
    with pytest.raises(MochiError, match="use 4 ranks"):
        choose_split(5, 24, 2)


@pytest.mark.parametrize(
    ("gpus", "available", "devices"),
    [
        ("all", 4, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("all", 5, ("cuda:0", "cuda:1", "cuda:2", "cuda:3")),
        ("2", 4, ("cuda:0", "cuda:1")),
        ("3, 1", 4, ("cuda:3", "cuda:1")),
        ("2,", 4, ("cuda:2",)),
        ("3", 0, ("cpu",) * 3),
        ("all", 0, ("cpu",)),
    ],
)
def test_devices(monkeypatch, gpus, available, devices):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    settings = ParallelSettings(gpus)
    assert settings.devices() == devices
    assert settings.in_process == (gpus == "all" and available == 0)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ("4", "there are 2 GPUs here .numbered from 0.: number 2 is missing"),
        ("0,7", "number 7 is missing"),
        ("0,0", "must be 'all', a number"),
        ("-1", "must be"),
        ("0", "must be"),
        ("four", "must be"),
        ("", "must be"),
    ],
)
def test_devices_that_cannot_be(monkeypatch, gpus, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MochiError, match=words):
        ParallelSettings(gpus).devices()


def test_auto_shards_weights_that_leave_no_room(monkeypatch):
    room = {"cuda:0": 80e9, "cuda:1": 24e9}  # the smaller one counts
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=room[gpu]))
    assert ParallelSettings("2").sharding_for(20_000_000_000) == "sharded"
    assert ParallelSettings("2").sharding_for(14_000_000_000) == "replicated"
    assert ParallelSettings("2", cpu=True).sharding_for(20_000_000_000) == "replicated"
    assert ParallelSettings("2", sharding="offloaded").sharding_for(1) == "offloaded"


def test_no_nccl(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: False)
    with pytest.raises(MochiError, match="NCCL"):
        ParallelSettings("2").devices()


@pytest.mark.parametrize(
    ("wrong", "widget"),
    [
        ({"cfg_degree": 4}, "guidance"),
        ({"ulysses_degree": -1}, "ulysses"),
        ({"sharding": "some"}, "weights"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_settings_that_cannot_be(wrong, widget):
    with pytest.raises(MochiError, match=widget):
        ParallelSettings(**wrong)


@given(height=st.integers(1, 70), width=st.integers(1, 110), ranks=st.integers(1, 16))
def test_strips_cover_the_picture_evenly(height, width, ranks):
    strips = plan_strips(height, width, ranks)
    assert sum(strips.sizes) == (height if strips.axis == 3 else width)
    assert min(strips.sizes) >= 1 and max(strips.sizes) - min(strips.sizes) <= 1
    assert strips.ranks <= ranks
