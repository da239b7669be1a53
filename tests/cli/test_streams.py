"""What is printed never ends a run, whatever the output takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TEXT = "caf\xe9 \u5b57 \U0001f388 \ud83d \udce9"
PROGRAM = f"""
import sys
from mochi.cli.streams import tolerant_output
with tolerant_output():
    for stream in (sys.stdout, sys.stderr):
        print({TEXT!a}, file=stream, flush=True)
        print({TEXT!a} * 10000, file=stream)
open("end", "w").close()
"""


def run(folder: Path, redirect: str = "", encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    """Prints in a process of its own, in which the shell leads the output elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": encoding}
    command = ["bash", "-c", f'"$0" -c "$1" {redirect}', sys.executable, PROGRAM]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0 and (folder / "end").exists() and b"Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "gbk"])
def test_any_encoding(tmp_path: Path, encoding: str) -> None:
    done = run(tmp_path, encoding=encoding)
    expected = TEXT.encode(encoding, "backslashreplace")
    assert done.stdout.splitlines()[0] == done.stderr.splitlines()[0] == expected


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    "redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&-", ">/dev/full", "2>/dev/full", "| true; exit ${PIPESTATUS[0]}"]
)
def test_nobody_reads(tmp_path: Path, redirect: str) -> None:
    run(tmp_path, redirect)
