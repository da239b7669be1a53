"""Rules and formatting: `make lint`, or `python3 -m scripts.lint [--fix]`."""

from __future__ import annotations

import subprocess
import sys

from scripts import setup_env
from scripts.comfyui import PROJECT

if __name__ == "__main__":
    setup_env.enter()
    fix = "--fix" in sys.argv
    commands = (["check", "--fix"], ["format"]) if fix else (["check"], ["format", "--check"])
    sys.exit(max(subprocess.call([sys.executable, "-m", "ruff", *command, "."], cwd=PROJECT) for command in commands))
