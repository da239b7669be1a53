"""workflows/MIXED.md has a row for every test of this folder, and says what the tests have shown."""

from importlib import import_module

import pytest

from scripts.mixed_table import MIXED, Line, rows_in, text, write
from tests.host.mixed.conftest import Seen

FILES = ("text", "model", "samplers", "guidance", "latent", "vae", "image")


def rows() -> list[tuple[str, str, tuple[str, str, str]]]:
    """Section, name of the test, and cells of its mark, in the order of the table."""
    modules = (import_module(f"tests.host.mixed.test_mixed_{name}") for name in FILES)
    tests = [(module.SECTION, test) for module in modules for test in vars(module).values()]
    return [(section, test.__name__, test.pytestmark[0].args) for section, test in tests if hasattr(test, "pytestmark")]


def test_every_test_is_a_row_and_no_row_is_left_over():
    titles = [cells[:3] for cells in rows_in(MIXED.read_text(encoding="utf-8"))]
    assert titles == [cells for _, _, cells in rows()]


def test_the_table_says_what_was_seen(seen: Seen, request: pytest.FixtureRequest):
    """All that was seen so far; the whole page where every test has passed, and then it can be printed anew."""
    lines = [
        Line(section, *cells, *(seen[name][ranks] for ranks in (1, 2)))
        for section, name, cells in rows()
        if len(seen.get(name, {})) == 2
    ]
    page = MIXED.read_text(encoding="utf-8")
    whole = len(lines) == len(rows()) and not request.session.testsfailed
    if whole:
        write(lines)
    assert {line.cells for line in lines} <= set(rows_in(page)), "python -m scripts.mixed_table >workflows/MIXED.md"
    assert not whole or page == text(lines) + "\n"
