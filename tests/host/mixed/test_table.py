"""workflows/MIXED.md has a row for every test of this folder, and says what the tests have shown."""

from importlib import import_module

import pytest

from scripts.mixed_table import MIXED, SEEN, Line, in_words, rows_in, text, with_other_hosts, write
from tests.host.mixed.conftest import Seen

FILES = ("text", "model", "samplers", "guidance", "latent", "vae", "image", "today")


def rows() -> list[tuple[str, str, tuple[str, str, str]]]:
    """Section, name of the test, and cells of its mark, in the order of the table."""
    modules = (import_module(f"tests.host.mixed.test_mixed_{name}") for name in FILES)
    tests = [(module.SECTION, test) for module in modules for test in vars(module).values()]
    return [(section, test.__name__, test.pytestmark[0].args) for section, test in tests if hasattr(test, "pytestmark")]


def test_every_test_is_a_row_and_no_row_is_left_over():
    assert list(rows_in(MIXED.read_text(encoding="utf-8"))) == [cells for _, _, cells in rows()]


def test_the_table_says_what_was_seen(seen: Seen, host_version: str, request: pytest.FixtureRequest):
    """All that was seen so far; the whole page where every test has passed, and then it can be written anew."""
    lines = [
        Line(section, *cells, {host_version: in_words(*(seen[name][ranks] for ranks in (1, 2)))})
        for section, name, cells in rows()
        if len(seen.get(name, {})) == 2
    ]
    page = MIXED.read_text(encoding="utf-8")
    whole = len(lines) == len(rows()) and not request.session.testsfailed
    if whole:
        write(lines, SEEN)
    said = rows_in(page)
    if not any(host_version in columns for columns in said.values()):
        pytest.skip(f"{MIXED.name} has no column for ComfyUI {host_version}")
    for line in lines:
        assert said[line.title][host_version] == line.seen[host_version], "python -m scripts.mixed_table"
    assert not whole or page == text(with_other_hosts(lines, page))
