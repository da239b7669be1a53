"""A temporary folder that goes with its process, however that ends."""

import os
import subprocess
import tempfile
import uuid
from pathlib import Path

KEEPER = 'exec 3<&0; (read -r _ <&3; rm -rf -- "$1") &'
"""A shell's program: wait until its input ends, then remove a folder. It goes on as nobody's child, since engines for
clusters kill the children of a worker that they end."""


class Scratch:
    """A folder that is removed when this process ends, by SIGKILL too, or when it is closed.

    The end of a pipe, which the system closes with the process, tells another one to remove it.

    Args:
        path: of the folder; by default a new one in the temporary folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.gettempdir(), f"mochi-videos-{uuid.uuid4().hex}")
        end, self._held = os.pipe()
        try:
            # In a session of its own, where neither Ctrl+C nor the end of the process's group reaches it.
            told = {"stdin": end, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
            subprocess.run(["sh", "-c", KEEPER, "sh", str(self.path)], start_new_session=True, check=True, **told)
        finally:
            os.close(end)
        self.path.mkdir(0o700)  # after who removes it is there

    def close(self) -> None:
        """Have what is left of it removed, now or in a moment."""
        os.close(self._held)
