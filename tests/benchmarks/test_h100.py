"""Laws of the model on paper: what must hold whatever the rates are."""

from dataclasses import replace

import pytest

from benchmarks.h100 import GPUS, Machine, decoding_table, forward_pass, steps_table
from mochi.config import PREVIEW
from mochi.geometry import latent_shape
from mochi.parallel.split import Split

PUBLISHED = latent_shape(848, 480, 163)
MACHINE = Machine()
PEAK = Machine(matmul_rate=1, attention_rate=1, memory_rate=1, link_rate=1)


def table(machine: Machine, **options) -> dict:
    return steps_table(machine, PREVIEW, PUBLISHED, 256, 64, **options)


def test_no_split_is_faster_than_the_floor_or_than_its_gpus_together():
    for figures in (table(PEAK), table(PEAK, eager=True)):
        for title, row in figures.items():
            assert row["floor s"] < row["64 steps s"], title
            assert row["speed-up"] <= int(title.split(":")[0]) * (1 + 1e-9), title


def test_all_numbers_of_gpus_and_both_ways_to_keep_weights_are_there():
    titles = list(table(MACHINE))
    assert {int(title.split(":")[0]) for title in titles} == set(GPUS)
    assert sum("sharded" in title for title in titles) == sum("replicated" in title for title in titles) > len(GPUS)


@pytest.mark.parametrize("rate", ["matmul_rate", "attention_rate", "memory_rate", "link_rate"])
def test_a_rate_halves_its_own_part_alone(rate):
    parts = {
        "matmul_rate": "linears",
        "attention_rate": "attention",
        "memory_rate": "elementwise",
        "link_rate": "sending",
    }
    of = (PREVIEW.dit, 44_520, 256, Split(1, 4), False)
    once = forward_pass(MACHINE, *of)._asdict()
    slower = forward_pass(replace(MACHINE, **{rate: getattr(MACHINE, rate) / 2}), *of)._asdict()
    assert {name for name in once if slower[name] == pytest.approx(2 * once[name], rel=1e-12) and once[name]} == {
        parts[rate]
    }
    assert {name for name in once if slower[name] == once[name]} == set(once) - {parts[rate]}


def test_weights_that_arrive_late_are_waited_for():
    """Over a slow link a block's weights take longer than a block's work, and nothing hides the difference."""
    of = (PREVIEW.dit, 600, 256, Split(2, 1), True)
    slow = replace(MACHINE, link_gb=1)
    late, soon = forward_pass(slow, *of), forward_pass(MACHINE, *of)
    all_weights = slow.sending(10e9)  # half of 20 GB
    assert late.gathering == pytest.approx(all_weights - (late.linears + late.attention + late.elementwise), rel=0.03)
    assert soon.gathering < late.gathering / 100


def test_strips_of_the_picture_share_the_decoding():
    figures = decoding_table(MACHINE, PREVIEW, PUBLISHED)
    assert figures["2"]["TFLOP a rank"] == pytest.approx(figures["1"]["TFLOP a rank"] / 2)
    assert all(row["floor s"] < row["convolutions s"] for row in figures.values())
