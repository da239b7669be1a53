"""Make `.venv` and install what the demo and the tests need. Standard library only; `python3 -m scripts.setup_env`.

Set MOCHI_NO_SETUP=1 to run the scripts in the Python that called them, with whatever is installed there.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.comfyui import CACHE, PROJECT, Log, find_or_fetch_comfyui

VENV = PROJECT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.sha256"
REQUIREMENTS = (PROJECT / "requirements.txt", PROJECT / "requirements-dev.txt")
OLDEST = (3, 10)
# Their versions are ours to choose: requirements-dev.txt.
NOT_FROM_HOST = ("torch", "torchvision")


class SetupError(RuntimeError):
    """The environment cannot be made; the message says what to do about it."""


def host_requirements(host: Path) -> str:
    """The lines of the host's requirements.txt that are to be installed here, with a torchaudio that fits our torch."""
    file = host / "requirements.txt"
    lines = [line for line in _lines(file) if _package(line) not in NOT_FROM_HOST] if file.is_file() else []
    return "".join(f"{_torchaudio() if _package(line) == 'torchaudio' else line}\n" for line in lines)


def ensure(log: Log = print) -> Path:
    """Bring `.venv` up to date and return its Python. Returns at once when nothing has changed since the last time."""
    CACHE.mkdir(exist_ok=True)
    with _one_at_a_time():
        try:
            if STAMP.is_file() and PYTHON.exists() and STAMP.read_text() == _fingerprint(find_or_fetch_comfyui(None)):
                return PYTHON
        except FileNotFoundError:
            pass  # the host is not there yet
        _install(log)
    return PYTHON


def enter() -> None:
    """Continue the running `python3 -m scripts.NAME` inside `.venv`, made first if need be."""
    if os.environ.get("MOCHI_NO_SETUP"):
        return
    try:
        python = ensure()
    except (SetupError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: this command failed, see above: {' '.join(map(str, error.cmd))}")
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "this is for scripts that run as `python3 -m scripts.NAME`"
    command = [str(python), "-m", spec.name, *sys.argv[1:]]
    sys.stdout.flush()
    if os.name == "nt":  # there exec would return to the shell while the new process runs on
        sys.exit(subprocess.call(command, cwd=PROJECT))
    os.chdir(PROJECT)
    os.execv(command[0], command)


def _install(log: Log) -> None:
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not PYTHON.exists() or subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode:
        make_venv(VENV, log)
    host = find_or_fetch_comfyui(PYTHON, log)
    wanted = CACHE / "comfyui-requirements.txt"
    wanted.write_text(host_requirements(host), encoding="utf-8")
    log("Installing packages into .venv (the first time several gigabytes, torch above all) ...")
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    # One resolution over all lists, so that no list undoes the choice of another.
    arguments = [item for file in (*REQUIREMENTS, wanted) for item in ("-r", file)]
    subprocess.run([*pip, *arguments], check=True, stdout=None if log is print else subprocess.DEVNULL)
    STAMP.write_text(_fingerprint(host))
    log(f"The environment is ready ({time.monotonic() - started:.0f} s).")


def make_venv(folder: Path, log: Log = print) -> None:
    """An environment with a Python that is new enough, and pip. Raises SetupError where that cannot be."""
    python = _new_enough_python()
    log(f"Making {folder.name} with {python} ...")
    made = subprocess.run([python, "-m", "venv", folder], capture_output=True, text=True)
    if made.returncode:
        raise SetupError(
            f"`{python} -m venv` failed. On Debian and Ubuntu it needs `apt install python3-venv`.\n"
            f"{made.stdout}{made.stderr}"
        )


def _new_enough_python() -> str:
    test = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    for name in (sys.executable, "python3.12", "python3.13", "python3.11", "python3.10"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", test], capture_output=True).returncode == 0:
            return path
    raise SetupError(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}.")


def _fingerprint(host: Path) -> str:
    digest = hashlib.sha256(str(VENV).encode())
    for file in REQUIREMENTS:
        digest.update(file.read_bytes())
    digest.update(host_requirements(host).encode())
    return digest.hexdigest()


def _torchaudio() -> str:
    """The newest torchaudio that is not newer than our torch: of the same version where there is one.

    Until 2.10 torchaudio demands its own torch; 2.11, the last for now, runs with every torch since.
    """
    versions = (re.match(r"torch\s*==\s*([\d.]*\d)", line) for line in _lines(REQUIREMENTS[1]))
    return next((f"torchaudio<={version[1]}" for version in versions if version), "torchaudio")


def _lines(file: Path) -> list[str]:
    """The lines of a list of requirements, without comments."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _package(line: str) -> str:
    name = line
    for mark in "<>=!~;[ @":
        name = name.split(mark)[0]
    return name.strip().lower()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two commands started together must not install into the same folder at once."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(CACHE / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        print(ensure())
    except (SetupError, RuntimeError) as problem:
        sys.exit(f"error: {problem}")
