"""Which splits there are, which is chosen, and which devices a person means."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi.errors import MochiError
from mochi.parallel.settings import ParallelSettings
from mochi.parallel.split import MOST_PASSES, Split, choose_split, splits, usable_machines, usable_ranks
from mochi.parallel.spmd.vae import plan_strips


@given(ranks=st.integers(1, 64), heads=st.integers(1, 48), passes=st.integers(1, 3))
def test_a_chosen_split_keeps_all_ranks_busy(ranks, heads, passes):
    if not splits(ranks, heads, max(passes, 2)):
        with pytest.raises(MochiError, match="heads"):
            choose_split(ranks, heads, passes)
        assert usable_ranks(ranks, heads) < ranks
        return
    split = choose_split(ranks, heads, passes)
    assert split.ranks == ranks and heads % split.ulysses_degree == 0 and 1 <= split.cfg_degree <= max(passes, 2)
    assert passes == 3 or usable_ranks(ranks, heads) == ranks


def share_of(split: Split, passes: int) -> float:
    """Forward passes of a step that a rank makes, in parts of a whole one."""
    return math.ceil(passes / split.cfg_degree) / split.ulysses_degree


@given(ranks=st.integers(1, 24), heads=st.sampled_from([12, 24, 48]), passes=st.integers(1, 3))
def test_no_split_is_faster_or_sends_less(ranks, heads, passes):
    """Of splits in which a rank has as much to do, the one with the fewest ranks to a pass sends least."""
    possible = [
        Split(degree, ranks // degree)
        for degree in range(1, max(passes, 2) + 1)
        if ranks % degree == 0 and heads % (ranks // degree) == 0
    ]
    if not possible:
        return
    chosen = choose_split(ranks, heads, passes)
    assert share_of(chosen, passes) == min(share_of(split, passes) for split in possible)
    alike = [split for split in possible if share_of(split, passes) == share_of(chosen, passes)]
    assert chosen.ulysses_degree == min(split.ulysses_degree for split in alike)


@given(
    ranks=st.integers(1, 24),
    passes=st.integers(1, 3),
    cfg_degree=st.integers(0, 3),
    ulysses_degree=st.sampled_from([0, 1, 2, 3, 4, 6, 8, 5]),
)
def test_what_a_person_has_chosen_is_respected_or_refused(ranks, passes, cfg_degree, ulysses_degree):
    """A degree of 3 also where a step has fewer passes: a group without one repeats another's."""
    try:
        split = choose_split(ranks, 24, passes, cfg_degree, ulysses_degree)
    except MochiError as error:
        degrees = cfg_degree or range(1, max(passes, 2) + 1)
        degrees = [degrees] if isinstance(degrees, int) else degrees
        ways = [(g, ranks // g) for g in degrees if ranks % g == 0 and 24 % (ranks // g) == 0]
        assert not [u for _, u in ways if ulysses_degree in (0, u)]
        assert f"guidance {cfg_degree or 'auto'} x Ulysses {ulysses_degree or 'auto'}" in str(error)
        return
    assert split.ranks == ranks and cfg_degree in (0, split.cfg_degree) and ulysses_degree in (0, split.ulysses_degree)


@pytest.mark.parametrize(
    ("ranks", "split"), [(1, (1, 1)), (2, (1, 2)), (3, (3, 1)), (4, (1, 4)), (6, (3, 2)), (8, (1, 8)), (12, (3, 4))]
)
def test_three_passes_go_over_three_groups_where_ranks_divide(ranks, split):
    assert choose_split(ranks, 24, 3) == split


def test_ranks_that_repeat_what_others_do_are_told_of():
    assert Split(3, 2).described(3) == "guidance 3 x Ulysses 2"
    assert Split(3, 2).described(2) == "guidance 3 x Ulysses 2 (2 of 6 ranks repeat what others do)"
    assert Split(2, 4).described(1) == "guidance 2 x Ulysses 4 (4 of 8 ranks repeat what others do)"
    assert Split(1, 4).described(3) == "guidance 1 x Ulysses 4"


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


def on_machines(*ranks: int) -> tuple[int, ...]:
    """The machine of each rank, where they have so many."""
    return tuple(machine for machine, count in enumerate(ranks) for _ in range(count))


@given(machines=st.integers(1, 5), ranks=st.integers(1, 24), heads=st.sampled_from([12, 24]), passes=st.integers(1, 3))
def test_auto_keeps_a_pass_inside_a_machine(machines, ranks, heads, passes):
    places, size = on_machines(*[ranks] * machines), machines * ranks
    inside = [
        Split(degree, size // degree)
        for degree in range(1, max(passes, 2, min(machines, MOST_PASSES)) + 1)
        if size % degree == 0 and ranks % (size // degree) == 0 and heads % (size // degree) == 0
    ]
    if not inside:
        with pytest.raises(MochiError, match="cannot make one video" if machines > 1 else "heads"):
            choose_split(size, heads, passes, machines=places)
        return
    split = choose_split(size, heads, passes, machines=places)
    assert share_of(split, passes) == min(share_of(one, passes) for one in inside)
    assert split in inside and not split.crosses(places)
    assert machines == 1 or split == (machines, ranks)


def test_machines_share_passes():
    two, three = on_machines(2, 2), on_machines(2, 2, 2)
    assert [choose_split(4, 24, passes, machines=two) for passes in (1, 2, 3)] == [Split(2, 2)] * 3
    assert [choose_split(6, 24, passes, machines=three) for passes in (1, 2, 3)] == [Split(3, 2)] * 3
    # What a person chooses can cross.
    assert choose_split(4, 24, 2, ulysses_degree=4, machines=two) == Split(1, 4)
    assert choose_split(4, 24, 1, cfg_degree=1, machines=two) == Split(1, 4)
    assert Split(1, 4).crosses(two) and Split(3, 2).crosses(on_machines(3, 3)) and not Split(2, 2).crosses(two)
    assert not Split(1, 4).crosses(()) and not Split(1, 4).crosses((7,) * 4)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ((4, 2), "machines have 4 and 2 ranks.*work on each: 1, 2"),
        ((3, 8, 8), "3, 8 and 8 ranks.*work on each: 1, 2, 3"),
        ((5, 5), "divide the model's 24 heads. Numbers that work on each: 1, 2, 3, 4"),
        ((16, 16), "work on each: 1, 2, 3, 4, 6, 8, 12"),
        ((1, 1, 1, 1), "4 machines cannot make one video.*other videos.*by hand.*guidance 2 x Ulysses 2"),
    ],
)
def test_machines_that_cannot_share_a_video(ranks, words):
    with pytest.raises(MochiError, match=words):
        choose_split(sum(ranks), 24, 2, machines=on_machines(*ranks))


@given(machines=st.integers(2, 3), available=st.integers(1, 24), passes=st.integers(1, 3))
def test_usable_machines_and_ranks_can_be_split(machines, available, passes):
    ranks, used = usable_ranks(available, 24, machines), usable_machines(machines, passes)
    split = choose_split(used * ranks, 24, passes, machines=on_machines(*[ranks] * used))
    assert used == min(machines, passes) and (used == 1 or split == (used, ranks))
    for more in range(ranks + 1, available + 1):
        with pytest.raises(MochiError, match="heads"):
            choose_split(machines * more, 24, passes, machines=on_machines(*[more] * machines))


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
