"""Rules, formatting, types and import contracts: `make lint`, or `python3 -m scripts.lint [--fix] [CHECK ...]`.

Checks are `ruff`, `types` and `imports`; all of them without a name. Their settings are in pyproject.toml.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from scripts import setup_env
from scripts.comfyui import CACHE, PROJECT, find_or_fetch_comfyui

CHECKS = ("ruff", "types", "imports")


def commands(check: str, fix: bool) -> list[list[str]]:
    """What is run for a check: programs that are installed beside this Python."""
    if check == "ruff":
        how = (["check", "--fix"], ["format"]) if fix else (["check"], ["format", "--check"])
        return [["ruff", *options, "."] for options in how]
    if check == "types":
        return [["basedpyright", "--level", "error", "--pythonpath", sys.executable]]
    return [["lint-imports", "--no-logo", "--cache-dir", str(CACHE / "import-linter")]]


def environment(check: str) -> dict[str, str]:
    """The type checker finds ComfyUI's modules in the folder that PYTHONPATH names."""
    return {**os.environ, "PYTHONPATH": str(find_or_fetch_comfyui())} if check == "types" else {**os.environ}


def main() -> None:
    setup_env.enter()
    parser = argparse.ArgumentParser(description="Checks the source code.")
    parser.add_argument("--fix", action="store_true", help="let ruff mend what it can")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"any of {', '.join(CHECKS)}; all if none is named")
    options = parser.parse_args()
    for unknown in set(options.checks) - set(CHECKS):
        parser.error(f"{unknown} is not a check: {', '.join(CHECKS)}")
    programs = Path(sysconfig.get_path("scripts"))
    statuses = [
        subprocess.call([programs / command[0], *command[1:]], cwd=PROJECT, env=environment(check))
        for check in options.checks or CHECKS
        for command in commands(check, options.fix)
    ]
    sys.exit(max(statuses))


if __name__ == "__main__":
    main()
