"""The page's process as the one that makes videos sees it: started, told how to serve, and ended."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import cast

from ..errors import MochiError
from .shown import Counter, Serving

METHODS = ("offer", "ask", "cancel", "view")

PATIENCE = 5.0
"""Seconds for the page's process to end."""


class Page:
    """The page's process. It starts at once, since its imports take seconds; it serves once it is told how."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mochi-page-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.web"],
            stdin=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [_project(), *sys.path])),
                "GRADIO_TEMP_DIR": self._folder.name,
                "GRADIO_ANALYTICS_ENABLED": "False",  # nothing is told to anybody
                "GRADIO_RUN_HISTORY": "False",
            },
        )

    def serve(
        self, counter: Counter, output: Path, host: str, port: int | None, users: Sequence[tuple[str, str]]
    ) -> None:
        """Have it serve what a Counter offers; see Serving."""

        class Desks(BaseManager):
            pass

        key = secrets.token_bytes(32)
        Desks.register("desk", callable=lambda: counter, exposed=METHODS)
        server = Desks(("127.0.0.1", 0), key).get_server()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = cast("tuple[str, int]", server.address)
        serving = Serving(address, key.hex(), str(output.absolute()), host, port, users)
        told = self._process.stdin
        assert told is not None  # it is a pipe
        with suppress(OSError):  # it has ended, which `check` tells
            told.write(f"{json.dumps(asdict(serving))}\n")
            told.flush()

    def check(self) -> None:
        """Raise MochiError where it has ended by itself."""
        if self._process.poll() is not None:
            raise MochiError("the page could not be served, or its process ended: see above")

    def close(self) -> None:
        """End it, and remove what it kept."""
        try:
            self._process.communicate(timeout=PATIENCE)  # its input ends, and so does it
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def _project() -> str:
    """The folder that our package is in."""
    return str(Path(__file__).parents[2])
