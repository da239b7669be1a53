"""The model of several machines on paper: its bytes are those that ranks count, and laws hold for any rates."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from benchmarks import cluster, h100
from benchmarks.cluster import BANDWIDTHS, Rates, Setup
from benchmarks.flops import strips_between
from benchmarks.work import Sizes, weight_files
from mochi.config import PREVIEW, DecoderConfig, DiTConfig
from mochi.geometry import latent_shape
from mochi.parallel.owner.client import RemoteDiT, RemoteVAE, finish
from mochi.parallel.owner.manager import GroupManager
from mochi.parallel.protocol import GetStatus, LoadDiT, LoadVAE
from mochi.parallel.split import Split
from mochi.parallel.spmd.vae import plan_strips

SMALL = Sizes(
    dit=DiTConfig(depth=3, num_heads=4, hidden_x=64, hidden_y=48, mlp_x=128, mlp_y=96, text_width=32, caption_heads=1),
    latents=(3, 6, 10),
    prompt_tokens=10,
    decoder=DecoderConfig(base=8, groups=4),
    video=(3, 4, 6),
    dtype=torch.float32,
)
MACHINES = (0, 0, 1, 1)
PUBLISHED = Setup(h100.Machine(), 4, PREVIEW, latent_shape(848, 480, 163), 256, 64, 0.9, 10e6)
MODEL = replace(PREVIEW, dit=SMALL.dit, decoder=SMALL.decoder)
TOY = Setup(h100.Machine(), 2, MODEL, (1, 12, *SMALL.latents), SMALL.prompt_tokens, 2, 0.9, 0, itemsize=4)


@pytest.fixture(scope="module")
def manager() -> Iterator[GroupManager]:
    with closing(GroupManager(["cpu"] * 4, timeout=120.0, threads=1, machines=MACHINES)) as manager:
        yield manager


def counted(manager: GroupManager, name: str) -> dict[int, int]:
    """Bytes that have left each machine so far."""
    leaving = dict.fromkeys(MACHINES, 0)
    for machine, status in zip(MACHINES, manager.use().run(GetStatus()), strict=True):
        leaving[machine] += getattr(status, name)
    return leaving


@pytest.mark.parametrize("frames", [1, 2, 3])  # 15, 30 and 45 tokens
def test_bytes_of_the_table_are_those_that_are_counted(manager, frames):
    setup = replace(TOY, latents=(1, 12, frames, *SMALL.latents[1:]))
    noise = torch.randn(setup.latents, generator=torch.Generator().manual_seed(1))
    features = torch.randn(1, 256, SMALL.dit.text_width, generator=torch.Generator().manual_seed(2))
    with weight_files(SMALL) as (file, _):
        dit = RemoteDiT(manager, LoadDiT(file, torch.float32, torch.float32))
        rows = [(dit.text(features, torch.arange(256)[None] < SMALL.prompt_tokens), 0)]
        for across in (False, True):
            split = cluster.split_of(setup, MACHINES, across)
            assert split == (Split(1, 4) if across else Split(2, 2))
            finish(dit.load())
            dit.degrees, before = tuple(split), counted(manager, "between")
            finish(dit.sample(noise, [1.0, 0.5, 0.0], [4.0, 4.0], rows, rows))
            after, expected = counted(manager, "between"), cluster.leaving_in_a_step(setup, MACHINES, split)
            assert {machine: after[machine] - before[machine] for machine in after} == {
                machine: setup.steps * nbytes for machine, nbytes in expected.items()
            }
        dit.unload()


@pytest.mark.parametrize("size", [(3, 4, 6), (2, 8, 3), (1, 1, 9)])
def test_bytes_of_decoding_are_those_that_are_counted(manager, size):
    with weight_files(SMALL) as (_, file):
        vae = RemoteVAE(manager, LoadVAE(file, None, torch.float32))
        before = counted(manager, "strips_between")
        finish(vae.decode(torch.randn(1, 12, *size, generator=torch.Generator().manual_seed(3))))
        after = counted(manager, "strips_between")
        vae.unload()
    strips = plan_strips(*size[1:], len(MACHINES))
    expected = strips_between(SMALL.decoder, size, strips, MACHINES, itemsize=4)
    assert {machine: after[machine] - before[machine] for machine in after} == {0: 0, 1: 0} | expected
    assert sum(expected.values()) > 0


def test_guidance_over_machines_halves_the_steps_and_ulysses_over_them_waits_for_the_network():
    single = replace(PUBLISHED, gpus=1)
    fast = [cluster.one_video(single, single.ranks_on(machines), 1e9).seconds for machines in (1, 2)]
    assert fast[1] == pytest.approx(fast[0] / 2, rel=1e-6)
    one, two = PUBLISHED.ranks_on(1), PUBLISHED.ranks_on(2)
    for gbits in BANDWIDTHS:
        auto, across = (cluster.one_video(PUBLISHED, two, gbits, way) for way in (False, True))
        assert auto.seconds < cluster.one_video(PUBLISHED, one, gbits).seconds < across.seconds
        # 48 blocks, 2 passes: q, k, v and the result, half of which is for the other machine, of 4 GPUs each.
        visual = PUBLISHED.steps * 2 * 48 * 4 * 44_520 * 3072 * 2 // 2
        assert across.between == pytest.approx(visual, rel=0.02) and auto.between < across.between / 1000


def test_a_faster_network_never_takes_longer():
    for machines in (1, 2):
        ranks = PUBLISHED.ranks_on(machines)
        ways = (False, True) if machines > 1 else (False,)
        for across in ways:
            seconds = [cluster.one_video(PUBLISHED, ranks, gbits, across).seconds for gbits in BANDWIDTHS]
            assert seconds == sorted(seconds, reverse=True)
    seconds = [cluster.shared(PUBLISHED, 64, gbits).seconds for gbits in BANDWIDTHS]
    assert seconds == sorted(seconds, reverse=True)


def test_results_that_fill_the_network_are_waited_for():
    heavy = replace(PUBLISHED, result=1e9)
    few, many = (cluster.shared(heavy, machines, 1).seconds for machines in (2, 64))
    assert few < many == pytest.approx(64 * heavy.sending(1e9, 1))
    most = cluster.most_machines(heavy, Rates(0, 0, 30e9), 1)["results"]
    assert few < 2 * most * heavy.sending(1e9, 1) and 2 < most < 64


def test_the_scheduler_limits_as_many_machines_as_it_serves():
    alone = cluster.one_video(PUBLISHED, PUBLISHED.ranks_on(1), 10).seconds
    rates = Rates(jobs=5, start=0, weights=30e9)
    assert cluster.most_machines(PUBLISHED, rates, 10)["scheduler"] == pytest.approx(5 * alone)
    assert "scheduler" not in cluster.most_machines(PUBLISHED, replace(rates, jobs=0), 10)
    share = cluster.limits_table(PUBLISHED, rates)["64 machines, 10 Gb/s"]["of the scheduler"]
    assert float(share.removesuffix(" %")) == pytest.approx(100 * 64 / alone / 5, rel=0.02)


def test_everything_is_printed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cluster", "--gpus", "4"])
    cluster.main()
    printed = capsys.readouterr().out
    assert all(f"{gbits} Gb/s" in printed for gbits in BANDWIDTHS) and "2 machines, one video, auto" in printed
    assert "assumed" in printed and "not measured yet" in printed
    tables = [part.splitlines() for part in printed.split("\n\n")[1:]]
    assert len(tables) == 4 and all(len({row.count("|") for row in table}) == 1 for table in tables)
