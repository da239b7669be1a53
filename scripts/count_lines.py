"""Counts lines of code, without blank lines, comments and docstrings: `python -m scripts.count_lines [PATH ...]`.

Without a path it counts what runs inside ComfyUI: the core, the nodes and the pack's `__init__.py`. One line is printed
for each folder, and one for all of them. Standard library only.
"""

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

RUNTIME = ("mochi", "nodes", "__init__.py")
NOT_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def code_lines(source: str) -> int:
    """How many lines of the source have code on them.

    Each line of a statement or of a string that is over several lines counts. A string that stands alone does not,
    wherever it stands: attributes are documented that way.
    """
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - set(_documentation(ast.parse(source))))


def count(paths: list[Path]) -> Counter[str]:
    """Lines of code by folder; of a folder, those of all files below it."""
    found: Counter[str] = Counter()
    for path in paths:
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            found[file.parent.as_posix()] += code_lines(file.read_text(encoding="utf-8"))
    return found


def _documentation(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts lines of code.")
    parser.add_argument("paths", nargs="*", type=Path, default=[Path(name) for name in RUNTIME])
    found = count(parser.parse_args().paths)
    for folder, lines in found.items():
        print(f"{lines:6,} {folder}")
    print(f"{found.total():6,} in all")


if __name__ == "__main__":
    main()
