"""Runs of the kit as files; what is shown of them, and what the paper model takes from them."""

from typing import Any

import pytest

from benchmarks.gpu import results
from benchmarks.h100 import Machine, known_machine
from benchmarks.report_gpu import UNKNOWN, markdown, rows

H100 = "NVIDIA H100 80GB HBM3"


def made_up(card: str = H100, date: str = "2026-11-27T01:45:00Z", small: bool = False) -> dict[str, Any]:
    """What a run leaves, with figures that nobody measured."""
    found = {
        "environment": {
            "machine": {"card": card, "torch": "2.11.0+cu130"},
            "products": {"TFLOP/s": 494.5},
            "copies": {"on the device GB/s": 2400.0},
        },
        "attention": {"mochi": {"TFLOP/s": 247.25}},
        "step": {"fused": {"ms": 3000.0, "beyond limit x": 1.5}},
        "correctness": {"VAE": {"float32": {"encoded": {"error": 1e-6, "ok": True}, "whole": {"ok": False}}}},
    }
    lines = [{"section": name, "seconds": 1.0, "found": parts} for name, parts in found.items()]
    return results.result_of(lines, small) | {"date": date}


def test_files_are_named_by_date_card_and_torch(tmp_path):
    file = results.save(made_up(), tmp_path)
    assert file == tmp_path / "2026-11-27T0145-NVIDIA-H100-80GB-HBM3-torch2.11.0.json"
    assert results.save(made_up(), tmp_path / "mine.json").read_text() == file.read_text()
    assert results.newest(tmp_path) == made_up()


def test_the_newest_at_full_size_counts(tmp_path):
    assert results.newest(tmp_path) is None and results.newest(tmp_path / "nowhere") is None
    for card, date, small in (
        (H100, "2026-11-27T01:45:00Z", False),
        (H100, "2026-12-01T00:00:00Z", False),
        ("NVIDIA L40S", "2027-01-01T00:00:00Z", False),
        (H100, "2027-02-01T00:00:00Z", True),
    ):
        results.save(made_up(card, date, small), tmp_path)
    assert results.newest(tmp_path)["card"] == "NVIDIA L40S"
    assert results.newest(tmp_path, "H100")["date"] == "2026-12-01T00:00:00Z"


def test_the_paper_model_takes_its_rates_from_the_newest_run(tmp_path):
    assert known_machine(tmp_path) == (Machine(), "assumed, nothing measured")
    results.save(made_up("NVIDIA L40S", "2027-01-01T00:00:00Z"), tmp_path)
    assert known_machine(tmp_path)[0] == Machine()
    results.save(made_up(), tmp_path)
    machine, says = known_machine(tmp_path)
    rates = machine.matmul_rate, machine.attention_rate, machine.memory_rate, machine.link_rate
    assert rates == pytest.approx((0.5, 0.25, 2400 / 3350, Machine().link_rate))
    assert "matmul_rate, attention_rate, memory_rate measured on NVIDIA H100" in says and "2.11.0" in says
    results.save(made_up("NVIDIA H200", "2026-12-01T00:00:00Z"), tmp_path)
    machine, says = known_machine(tmp_path)
    assert machine.memory_gb * machine.memory_rate == pytest.approx(2400) and "H200" in says


def test_a_rate_that_was_not_measured_stays_assumed(tmp_path):
    run = made_up()
    del run["lines"]["attention"]
    results.save(run, tmp_path)
    machine, says = known_machine(tmp_path)
    assert machine.attention_rate == Machine().attention_rate and machine.matmul_rate == pytest.approx(0.5)
    assert "attention_rate" not in says


def test_measured_beside_predicted():
    text = markdown(made_up())
    assert H100 in text and "1 of 2 comparisons are within their bounds." in text
    assert "correctness / VAE / float32 / whole" in text
    (fused,) = (line for line in text.splitlines() if line.startswith("| pass, fused, ms"))
    assert "3000" in fused
    (beyond,) = (line for line in text.splitlines() if "products and attention, x" in line)
    assert "1.5" in beyond and "at most 1.25: no" in beyond
    assert text.count(UNKNOWN) == sum(1 for _ in rows()) - 5


def test_where_nothing_ran_nothing_is_claimed():
    text = markdown(None)
    assert text.startswith("No GPU has run it yet.") and text.count(UNKNOWN) == sum(1 for _ in rows())


def test_rows_are_figures_of_sections():
    """A figure that a section does not name would never be shown."""
    from benchmarks.gpu.__main__ import SECTIONS

    assert {row.path[0] for row in rows()} <= SECTIONS.keys()
