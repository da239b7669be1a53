"""The networks' and the ranks' tests with the oldest torch that is supported: `make test-oldest`, or
`python3 -m scripts.test_oldest [PYTEST OPTIONS]`.

In an environment of its own, `.venv-oldest`. Set MOCHI_NO_SETUP=1 to use the Python that called.
"""

import os
import subprocess
import sys

from scripts import setup_env
from scripts.comfyui import PROJECT

# mochi/parallel/settings.py says the same; it cannot be asked here, without a torch.
TORCH = "torch==2.11.*"
TESTS = ("tests/dit", "tests/vae", "tests/parallel", "tests/cuda", "tests/train")
VENV = PROJECT / ".venv-oldest"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.txt"


def wanted() -> list[str]:
    """The project's own requirements, with that torch, and without what belongs to another one or to the editor."""
    lines = [line for file in setup_env.REQUIREMENTS for line in file.read_text(encoding="utf-8").splitlines()]
    others = ("#", "torch", "playwright", "ruff", "basedpyright", "import-linter")
    return [TORCH, *(line for line in lines if line and not line.startswith(others))]


def ensure() -> str:
    """The Python of the environment, made or brought up to date if need be."""
    packages = wanted()
    if not STAMP.is_file() or STAMP.read_text() != "\n".join(packages):
        STAMP.unlink(missing_ok=True)
        setup_env.make_venv(VENV)
        subprocess.run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *packages], check=True)
        STAMP.write_text("\n".join(packages))
    return str(PYTHON)


if __name__ == "__main__":
    try:
        python = sys.executable if os.environ.get("MOCHI_NO_SETUP") else ensure()
    except setup_env.SetupError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: this command failed, see above: {' '.join(map(str, error.cmd))}")
    sys.exit(subprocess.call([python, "-m", "pytest", *TESTS, *sys.argv[1:]], cwd=PROJECT))
