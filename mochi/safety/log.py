"""What was blocked, written down: a JSON object a line."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from ..errors import Blocked

NAME = "blocked.jsonl"


@contextmanager
def logged(log: Path | None, output: Path = Path()) -> Iterator[None]:
    """Inside, what is blocked is written down too.

    Args:
        log: the file; None: NAME beside the video.
        output: the video.
    """
    try:
        yield
    except Blocked as blocked:
        file = output.parent / NAME if log is None else log
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        try:
            append(file, json.dumps({"time": now, **blocked.facts}, default=str))
        except OSError as error:
            raise Blocked(f"{blocked}; {file}: could not be written ({error.strerror})", blocked.facts) from error
        raise


def append(file: Path, line: str) -> None:
    """Add a line to a file. It is written at once, behind whatever is there, so that several processes can do it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(number, f"{line}\n".encode())
    finally:
        os.close(number)
