"""ComfyUI's model folders: what lies below them, and which file or folder there the name in a graph stands for."""

import asyncio
import os
import posixpath
import threading
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import folder_paths
from server import PromptServer


class _Walked(NamedTuple):
    files: list[str]
    folders: dict[str, float]  # path -> when it was changed


_walked: dict[str, _Walked] = {}


def files_below(root: str) -> list[str]:
    """The paths of all files below a folder, relative to it.

    It is walked again once it or any folder below has changed, as ComfyUI does for the files that it lists itself.
    """
    found = _walked.get(root)
    if found is None or (_is_to_be_looked_at(root) and _has_changed(found)):
        if not os.path.isdir(root):
            return []
        found = _walked[root] = _Walked(*folder_paths.recursive_search(root, [".git"]))
    return found.files


class _Turn(threading.local):
    """The folders that need no look in this turn of the thread's event loop."""

    def __init__(self) -> None:
        self.done: set[str] = set()


_turn = _Turn()


def leave_folders_while_queueing() -> None:
    """Have a prompt queued without a look at folders: nobody sees the lists, and files are found by their names."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_leave_folders)


def _leave_folders(request: Any) -> Any:
    for root in _walked:
        _is_to_be_looked_at(root)
    return request


def _is_to_be_looked_at(root: str) -> bool:
    """Whether this is the first time in the turn: the host asks for each node's schema several times before its event
    loop goes on to something else.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # none runs in this thread
        return True
    if root in _turn.done:
        return False
    _turn.done.add(root)
    loop.call_soon(_turn.done.discard, root)
    return True


def _has_changed(found: _Walked) -> bool:
    try:
        return any(os.path.getmtime(folder) != changed for folder, changed in found.folders.items())
    except OSError:  # one is gone
        return True


def find_below(roots: Iterable[str], name: str) -> Path | None:
    """What a name in a graph stands for: a file, or a folder if it ends in a slash. None where there is none.

    The graph may come from a machine with other separators, or one that takes capitals and small letters for the same.
    A name that leads out of the folders stands for nothing.
    """
    roots, there = list(roots), os.path.isdir if name.endswith(("/", "\\")) else os.path.isfile
    for inside in map(_inside, _readings(name)):
        if inside is not None:
            for root in roots:
                if there(path := os.path.join(root, inside)):
                    return Path(path)
    return _by_letters(roots, name) if there is os.path.isfile else None


def _readings(name: str) -> list[str]:
    """With slashes as separators; first, where a backslash is a letter like others, as this system reads it."""
    either = name.replace("\\", "/")
    return [either] if os.sep == "\\" else [name, either]


def _inside(name: str) -> str | None:
    """A relative path without detours. None where it leads out of a folder, or nowhere."""
    path = posixpath.normpath(name)
    leaves = path in (".", "..") or path.startswith(("/", "../"))
    return None if leaves or (os.sep == "\\" and PureWindowsPath(path).anchor) else path


def _by_letters(roots: Iterable[str], name: str) -> Path | None:
    """The only file whose name differs by capitals alone."""
    wanted = _inside(_readings(name)[-1])
    if wanted is None:
        return None
    _turn.done.clear()  # what was put there since is found too
    found = [
        Path(root, file)
        for root in roots
        for file in files_below(root)
        if file.replace("\\", "/").casefold() == wanted.casefold()
    ]
    return found[0] if len(found) == 1 else None
