"""The page of mixed graphs, a column a version of the host."""

import pytest

from scripts import mixed_table
from scripts.mixed_table import NOT_RUN, Line, in_words, rows_in, text, with_other_hosts, write

OLD, NEW = "0.3.75", "0.33.0"


def line(ours: str, section: str = "LATENT", **seen: str) -> Line:
    return Line(section, ours, "KSampler", "Mochi Sampler", {{"old": OLD, "new": NEW}[k]: v for k, v in seen.items()})


def test_a_run_writes_its_own_column_and_leaves_the_others():
    page = text([line("a", old="equal"), line("b", old="differs")])
    page = text(with_other_hosts([line("a", new="refused: “no”"), line("b", new="equal")], page))
    assert rows_in(page)["b", "KSampler", "Mochi Sampler"] == {OLD: "differs", NEW: "equal"}
    page = text(with_other_hosts([line("a", old="near"), line("b", old="differs")], page))
    assert rows_in(page)["a", "KSampler", "Mochi Sampler"] == {OLD: "near", NEW: "refused: “no”"}


def test_rows_are_those_of_the_last_run():
    page = text([line("gone", old="equal"), line("a", old="equal")])
    page = text(with_other_hosts([line("a", new="equal"), line("added", "VAE", new="equal")], page))
    assert [title[0] for title in rows_in(page)] == ["a", "added"]
    assert rows_in(page)["added", "KSampler", "Mochi Sampler"] == {OLD: NOT_RUN, NEW: "equal"}
    assert "## VAE" in page and "2 graphs" in page


def test_what_two_ranks_show_too_is_said_once():
    assert in_words("equal", "equal") == "equal"
    assert in_words("equal", "refused") == "equal; on two ranks refused"


def test_the_page_is_written_from_the_last_run(monkeypatch, tmp_path):
    monkeypatch.setattr(mixed_table, "MIXED", tmp_path / "MIXED.md")
    monkeypatch.setattr(mixed_table, "SEEN", seen := tmp_path / "seen.jsonl")
    with pytest.raises(SystemExit, match="nothing was seen yet"):
        mixed_table.main()
    for ran in (line("a", old="equal"), line("a", new="near")):
        write([ran], seen)
        mixed_table.main()
    assert rows_in((tmp_path / "MIXED.md").read_text(encoding="utf-8")) == {
        ("a", "KSampler", "Mochi Sampler"): {OLD: "equal", NEW: "near"}
    }
