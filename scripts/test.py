"""The tests: `make test`, or `python3 -m scripts.test [PYTEST OPTIONS]`.

Two processes share them, file by file (tests/conftest.py), each with half of the cores; `-n 0` runs all in one.
"""

import os
import subprocess
import sys

from scripts import setup_env
from scripts.comfyui import PROJECT

PROCESSES = 2

if __name__ == "__main__":
    setup_env.enter()
    threads = max(1, (os.cpu_count() or 1) // PROCESSES)
    shared = ["-n", str(PROCESSES), "--no-loadscope-reorder"]
    command = [sys.executable, "-m", "pytest", *shared, *sys.argv[1:]]
    sys.exit(subprocess.call(command, cwd=PROJECT, env={"OMP_NUM_THREADS": str(threads), **os.environ}))
