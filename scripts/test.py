"""The tests: `make test`, or `python3 -m scripts.test [PYTEST OPTIONS]`."""

import subprocess
import sys

from scripts import setup_env
from scripts.comfyui import PROJECT

if __name__ == "__main__":
    setup_env.enter()
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=PROJECT))
