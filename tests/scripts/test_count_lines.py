"""Counting lines of code."""

from scripts.count_lines import code_lines, count

SOURCE = '''"""A module
of two lines."""

import os  # a comment behind code

# A comment alone.


class Thing:
    """A docstring."""

    size = 1
    """Of an attribute."""

    def text(self):
        return (
            """one
            two
            """
            + str(self.size)
        )
'''


def test_blank_lines_comments_and_docstrings_do_not_count():
    assert code_lines(SOURCE) == 10
    assert code_lines('"""Only a docstring."""\n# and a comment\n') == 0


def test_files_are_summed_by_folder(tmp_path):
    inner = tmp_path / "room" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "room" / "a.py").write_text("a = 1\n")
    (tmp_path / "room" / "b.py").write_text("b = 1\nc = 2\n")
    (inner / "c.py").write_text(SOURCE)
    (inner / "no.txt").write_text("not code\n")
    assert dict(count([tmp_path / "room"])) == {(tmp_path / "room").as_posix(): 3, inner.as_posix(): 10}
    assert count([inner / "c.py"]).total() == 10
