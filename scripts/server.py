"""A ComfyUI server as a context manager. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path


class ServerError(RuntimeError):
    """The server did not come up, or died; the message ends with the last lines of its log."""


class ComfyServer:
    """`with ComfyServer(host, base) as server:` runs `main.py` on a free loopback port until the block is left.

    host: the ComfyUI folder. base: its base directory (see `prepare_base`). cpu: None gives `--cpu` only where torch
    sees no accelerator. The log goes to `base/server.log`. The server ends with this process, however that ends.
    """

    def __init__(
        self,
        host: Path,
        base: Path,
        *,
        port: int | None = None,
        cpu: bool | None = None,
        extra: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        timeout: float = 240,
    ):
        self.host, self.base = Path(host), Path(base)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = self.base / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._cpu, self._extra, self._timeout = cpu, list(extra), timeout
        self._environment = environment or {}

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def command(self) -> list[str]:
        """The command line of the server."""
        cpu = self._cpu if self._cpu is not None else not accelerator_available()
        database = f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"
        return [
            *[sys.executable, "main.py", *(["--cpu"] if cpu else [])],
            *["--base-directory", str(self.base), "--database-url", database],
            *["--listen", "127.0.0.1", "--port", str(self.port)],
            *["--disable-api-nodes", "--disable-auto-launch", *self._extra],
        ]

    def start(self) -> None:
        """Start the process, without waiting for it to answer."""
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.host,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )

    def stop(self, patience: float = 10) -> None:
        """Terminate the server; kill it, and whatever it started, if it does not go.

        What it started has as long as the server itself to clean up and end.
        """
        if self.process is None:
            return
        end = time.monotonic() + patience
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if os.name != "nt":
            with suppress(ProcessLookupError, PermissionError):  # nobody is left in the group
                while time.monotonic() < end:
                    os.killpg(self.process.pid, 0)
                    time.sleep(0.05)
                os.killpg(self.process.pid, signal.SIGKILL)

    def log(self) -> str:
        """All that the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def wait(self) -> int:
        """The status with which the server ends, once it ends."""
        return self._running().wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServerError("ComfyUI was not started")
        return self.process

    def _wait_until_up(self) -> None:
        process = self._running()
        deadline = time.monotonic() + self._timeout
        # No proxy: a proxy of the environment must not see requests to the loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"ComfyUI ended with status {process.returncode}.\n{self._log_tail()}")
            try:
                opener.open(f"{self.url}/system_stats", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise ServerError(f"ComfyUI did not answer within {self._timeout:.0f} s.\n{self._log_tail()}")

    def _log_tail(self, lines: int = 60) -> str:
        tail = "\n".join(self.log().splitlines()[-lines:])
        return f"The end of {self.log_file}:\n{tail}"


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@cache
def accelerator_available() -> bool:
    """Whether this Python's torch sees a GPU. Asked in a child process: a launcher has no other use for torch."""
    code = (
        "import sys, torch\n"
        "found = torch.cuda.is_available() or torch.backends.mps.is_available()\n"
        "sys.exit(0 if found or (hasattr(torch, 'xpu') and torch.xpu.is_available()) else 1)\n"
    )
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri"))):
        return False  # no driver, and importing torch takes seconds
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here, not in a freshly forked child
_SET_PARENT_DEATH_SIGNAL = 1


def _end_with_parent() -> None:
    """Runs in the child before it becomes the server: the kernel is to end it when its parent is gone (Linux)."""
    assert _libc is not None
    _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
