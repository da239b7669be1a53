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

FOLDER, SOCKETS, SOCKET = "mochi-group-", "pymp-12345678", "listener-12345678"
"""The folder of a group, the folder for sockets that multiprocessing makes in a process's temporary folder, and the
socket at which a process offers the tensors that it sends."""

SHORT = Path("/tmp")
"""Where the folder is made if the path of the temporary folder is too long for sockets in it."""


def private_folder(ranks: int) -> tuple[Path, Board]:
    """A fresh folder that only this user can enter, with a board. Raises MochiError where there is no room for it."""
    place: Path | str = "the system's"
    try:
        place = Path(tempfile.gettempdir())
        if not _is_short(place / f"{FOLDER}12345678" / SOCKETS / SOCKET):
            place = SHORT
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
        try:
            return folder, Board.create(folder, ranks)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise MochiError(
            f"The ranks need a temporary folder to meet in, and {place} does not serve: {error}. Free some room there, "
            "or name another folder in the environment variable TMPDIR."
        ) from error


def _is_short(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= LONGEST_SOCKET


def keep_logs(folder: Path, kept: Path | None) -> Path:
    """Copy the logs of a failed group to where they stay: below `kept`, or beside the private folder."""
    place = (kept or folder.parent) / f"{folder.name}-logs"
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.log"):
            shutil.copy(file, place)
        logs = sorted(place.parent.glob(f"{FOLDER}*-logs"), key=lambda path: path.stat().st_mtime)
        for older in logs[:-KEPT_LOGS]:
            shutil.rmtree(older, ignore_errors=True)
    return place
