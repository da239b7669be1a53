"""The private folder in which the ranks of a group meet, and what stays of it after a failure."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ...errors import MochiError
from ..wire import Board

KEPT_LOGS = 5
"""How many failed groups have their logs kept."""


LONGEST_SOCKET = 103
"""Bytes that the path of a Unix socket can have on any system."""

SOCKET = "pymp-12345678/listener-12345678"
"""The path, in its temporary folder, at which a worker offers the tensors that it sends."""


def private_folder(ranks: int) -> tuple[Path, Board]:
    """A fresh folder that only this user can enter, with a board. Raises MochiError where there is no room for it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="mochi-group-"))
        board = Board.create(folder, ranks)
        if len(os.fsencode(folder / SOCKET)) > LONGEST_SOCKET:
            shutil.rmtree(folder)
            raise OSError("its path is too long for the sockets that are made there")
        return folder, board
    except OSError as error:
        raise MochiError(
            f"The ranks need a temporary folder to meet in, and {tempfile.gettempdir()} does not serve: {error}. Free "
            "some room there, or name another folder in the environment variable TMPDIR."
        ) from error


def keep_logs(folder: Path, kept: Path | None) -> Path:
    """Copy the logs of a failed group to where they stay: below `kept`, or beside the private folder."""
    place = (kept or folder.parent) / f"{folder.name}-logs"
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.log"):
            shutil.copy(file, place)
        logs = sorted(place.parent.glob("mochi-group-*-logs"), key=lambda path: path.stat().st_mtime)
        for older in logs[:-KEPT_LOGS]:
            shutil.rmtree(older, ignore_errors=True)
    return place
