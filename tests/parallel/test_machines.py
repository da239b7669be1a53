"""Ranks that are taken to be on several machines: the same results, and counted bytes that are those of the formula."""

import logging
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mochi.errors import MochiError
from mochi.parallel.machines import machine_of_each
from mochi.parallel.owner.client import finish
from mochi.parallel.owner.group import Group
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import GetStatus, SplitChosen
from mochi.parallel.split import Split, choose_split, splits
from mochi.parallel.traffic import PassSize, bytes_between, warning_of
from tests.exact import relative_error
from tests.parallel.dit_cases import NETWORK, Input, predicted, steps
from tests.parallel.dit_groups import SERVICE, weight_file
from tests.parallel.helpers import ask, float32_dit, tiny_vae

checkpoint = weight_file()
PLACES = {3: [(0, 1, 2)], 4: [(0, 0, 1, 1), (0, 0, 0, 0)], 6: [(0, 0, 0, 1, 1, 1), (0, 0, 1, 1, 2, 2)]}
HEADS = NETWORK.config.num_heads


@pytest.fixture(scope="module", params=PLACES)
def denoisers(request) -> Iterator[Group]:
    group = Group(["cpu"] * request.param, service=SERVICE, threads=1, timeout=120)
    yield group
    group.close()


def step(passes: int, size: tuple[int, int, int], seed: int = 0, batch: int = 1) -> list[Input]:
    """A step of so many passes; size: latent frames, rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, 12, *size, generator=generator)
    return [
        Input(
            z,
            torch.full((batch,), 0.5),
            torch.randn(batch, 256, NETWORK.config.text_width, generator=generator),
            (torch.arange(256) < length)[None].expand(batch, -1),
        )
        for length in (17, 256, 5)[:passes]
    ]


def between(group: Group, machines: tuple[int, ...], passes: list[Input], split: Split) -> tuple[list, dict[int, int]]:
    """Each rank's results, and the bytes that left each machine."""
    before = ask(group, "between")
    answers = ask(group, "predict", passes=list(map(tuple, passes)), split=tuple(split))
    leaving: dict[int, int] = defaultdict(int)
    for machine, earlier, later in zip(machines, before, ask(group, "between"), strict=True):
        leaving[machine] += later - earlier
    return [results for results, _ in answers], dict(leaving)


def by_the_formula(machines: tuple[int, ...], passes: list[Input], split: Split) -> dict[int, int]:
    sizes = [PassSize(max(one.prompts), one.skip) for one in passes]
    return bytes_between(NETWORK.config, passes[0].z.shape, sizes, split, machines, itemsize=4)


@given(data=st.data())
@settings(max_examples=12)
def test_bytes_between_machines_are_those_of_the_formula(denoisers, checkpoint, data):
    """In all splits, those in which Ulysses crosses machines too, and those in which guidance does so in part."""
    machines = data.draw(st.sampled_from(PLACES[denoisers.size]))
    passes = data.draw(steps())
    split = data.draw(st.sampled_from(splits(denoisers.size, HEADS, passes=3)))
    ask(denoisers, "load", path=checkpoint, sharding="replicated", machines=machines)
    results, leaving = between(denoisers, machines, passes, split)
    expected = predicted(NETWORK, passes)
    for of_rank in results:
        assert max(relative_error(a, b) for a, b in zip(of_rank, expected, strict=True)) <= 1e-6
    assert leaving == by_the_formula(machines, passes, split)


@pytest.mark.parametrize("size", [(1, 2, 2), (3, 6, 10), (5, 2, 6)])  # 1, 45 and 15 tokens
def test_auto_moves_each_prediction_once_and_changes_no_bit(denoisers, checkpoint, size):
    for machines in PLACES[denoisers.size]:
        number, apart = len(set(machines)), len(set(machines)) > 1
        passes = step(min(number, 3) if apart else 2, size)
        split = choose_split(denoisers.size, HEADS, len(passes), machines=machines)
        ask(denoisers, "load", path=checkpoint, sharding="replicated", machines=machines)
        results, leaving = between(denoisers, machines, passes, split)
        prediction = passes[0].z.nbytes
        # With two machines: one prediction each way, less than the latents and both predictions.
        assert leaving == dict.fromkeys(set(machines), prediction * (number - 1))
        ask(denoisers, "load", path=checkpoint, sharding="replicated", machines=(0,) * denoisers.size)
        together, nothing = between(denoisers, (0,) * denoisers.size, passes, split)
        assert nothing == {0: 0}
        for ours, theirs in zip(results, together, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Group]:
    group = Group(["cpu"] * 4, service=SERVICE, threads=1, timeout=120, machines=(0, 0, 1, 1))
    yield group
    group.close()


@pytest.mark.parametrize("sharding", ["sharded", "offloaded"])
def test_weights_are_sharded_inside_a_machine(two_machines, checkpoint, sharding):
    """Each has all of them in its two ranks, whatever the split."""
    of_blocks = sum(p.nbytes for name, p in NETWORK.state_dict().items() if name.startswith("blocks."))
    of_the_rest = sum(p.nbytes for p in NETWORK.state_dict().values()) - of_blocks
    ask(two_machines, "load", path=checkpoint, sharding=sharding)
    held = ask(two_machines, "bytes")
    assert [held[0] + held[1], held[2] + held[3]] == [of_blocks + 2 * of_the_rest] * 2
    for passes in (step(1, (1, 4, 6)), step(2, (2, 2, 6)), [one._replace(skip=(1,)) for one in step(3, (1, 4, 6))]):
        expected = predicted(NETWORK, passes)
        for split in splits(4, HEADS, passes=4):  # guidance 4 too, where ranks of a machine have passes of their own
            results, _ = between(two_machines, (0, 0, 1, 1), passes, split)
            for of_rank in results:
                assert max(relative_error(a, b) for a, b in zip(of_rank, expected, strict=True)) <= 1e-6


def test_bandwidth_is_what_all_ranks_agree_on(two_machines, checkpoint):
    ask(two_machines, "load", path=checkpoint, sharding="replicated")
    measured = ask(two_machines, "bandwidth")
    assert len(set(measured)) == 1 and 1e6 < measured[0] < 1e12


@pytest.fixture(scope="module")
def manager() -> Iterator[GroupManager]:
    manager = GroupManager(["cpu"] * 4, timeout=120.0, threads=1, machines=(0, 0, 1, 1))
    yield manager
    manager.close()


def sent(manager: GroupManager) -> list[tuple[int, int]]:
    """Of each rank, to other machines: of denoising, of decoding."""
    return [(status.between, status.strips_between) for status in manager.use().run(GetStatus())]


def test_a_run_over_two_machines(manager, checkpoint, caplog):
    """Counted in the ranks' own service. A split by hand is warned of once, with the bytes that are counted then."""
    dit = float32_dit(manager, checkpoint)
    noise = torch.randn(1, 12, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    features = torch.randn(1, 256, NETWORK.config.text_width, generator=torch.Generator().manual_seed(2))
    sides = [[(dit.text(features, torch.arange(256)[None] < length), 0)] for length in (9, 33)]
    sigmas, told = [1.0, 0.5, 0.0], []

    def run(degrees: tuple[int, int], cfg: float) -> tuple[Tensor, int]:
        dit.degrees, before = degrees, sent(manager) if dit.loaded else [(0, 0)] * 4
        result = finish(dit.sample(noise, sigmas, [cfg] * 2, *sides), lambda event: told.append(event.payload))
        return result, sum(later[0] - earlier[0] for later, earlier in zip(sent(manager), before, strict=True))

    caplog.set_level(logging.WARNING)
    inside, bytes_inside = run((0, 0), 4.0)
    _, bytes_single = run((0, 0), 1.0)
    assert bytes_inside == 2 * 2 * noise.nbytes and bytes_single == 0
    assert not caplog.records and not any(one.warning for one in told if isinstance(one, SplitChosen))
    across, bytes_across = run((1, 4), 4.0)
    run((1, 4), 4.0)
    assert relative_error(across, inside) <= 1e-5
    sizes = [PassSize(9), PassSize(33)]
    leaving = bytes_between(NETWORK.config, noise.shape, sizes, Split(1, 4), (0, 0, 1, 1), itemsize=4)
    assert bytes_across == 2 * sum(leaving.values()) > 10 * bytes_inside
    [record] = caplog.records
    words = f"a step moves {sum(leaving.values()) / 1e3:.3g} kB between them"
    assert record.levelname == "WARNING" and words in record.message and "s that were measured" in record.message
    warnings = {one.warning for one in told if isinstance(one, SplitChosen)}
    assert warnings == {"", record.message}
    # A single pass, as a host asks for it, is warned of too.
    finish(dit.forward(noise, torch.ones(1), sides[0]))
    assert len(caplog.records) == 2 and "guidance 1 x Ulysses 4" in caplog.records[1].message


def test_strips_of_two_machines_exchange_halos_and_statistics(manager):
    vae = tiny_vae(manager)
    finish(vae.decode(torch.randn(1, 12, 3, 4, 8, generator=torch.Generator().manual_seed(3))))
    by_rank = [strips for _, strips in sent(manager)]
    # All four send statistics to the other machine; the two in the middle send halos too.
    assert by_rank[0] == by_rank[3] > 0 and by_rank[1] == by_rank[2] > by_rank[0]


def test_the_warning_says_what_it_costs():
    text = warning_of(Split(1, 8), {0: 13_000_000_000, 1: 13_000_000_000}, 1.25e9)
    assert "guidance 1 x Ulysses 8" in text and "26 GB" in text and "10 s at the 1.25 GB/s" in text


def test_machines_that_cannot_be():
    assert machine_of_each((), 3) == (0, 0, 0) and machine_of_each((4, 4, 2), 3) == (4, 4, 2)
    with pytest.raises(MochiError, match="for 2 ranks, but there are 3"):
        machine_of_each((0, 1), 3)
    with pytest.raises(MochiError, match="must follow each other"):
        Group(["cpu"] * 3, machines=(0, 1, 0))
