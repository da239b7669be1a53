"""Acceptance on one GPU: `python -m benchmarks.gpu [--budget SECONDS] [--only SECTION ...] [--out FILE]`.

The most valuable section comes first. Each prints one line of JSON as it ends: {"section", "seconds", "found"}, where
`found` has figures by part. What fails says so and where, and does not stop what follows; sections run in a process of
their own, which is replaced then, and which has a limit of time. A section that does not fit what is left of the budget
is skipped, and says so. `--small --device cpu` tests the kit itself, in toy sizes.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from . import results, wheels
from .results import Line, is_failed, verdicts
from .running import Runner
from .setting import Setting

SECTIONS = {
    "environment": 15,
    "kernels": 35,
    "attention": 10,
    "step": 120,
    "correctness": 35,
    "decode": 60,
    "shares": 30,
    "quants": 25,
    "training": 60,
    "groups": 85,
    "peers": 45,
}
"""Seconds that each is expected to take on an H100, at full size. It may take twice as long."""


def main() -> int:
    options = parser().parse_args()
    setting = Setting(torch.device(options.device), options.small)
    if setting.cuda and not torch.cuda.is_available():
        print("error: torch finds no GPU here. Name another device, such as --device cpu --small.", file=sys.stderr)
        return 2
    lines = []
    with TemporaryDirectory(prefix="mochi-wheels-") as unpacked:
        if options.wheels:
            wheels.use(options.wheels, Path(unpacked))
        for line in run(setting, options.only or list(SECTIONS), options.budget):
            print(json.dumps(line, default=str), flush=True)
            lines.append(line)
            if options.out:  # after each, so that a run that is cut short is kept too
                target = results.save(results.result_of(lines, options.small), options.out)
                options.out = target
    bad = [line["section"] for line in lines if is_failed(line)]
    missed = [place for line in lines for place, ok in verdicts(line["found"], (line["section"],)).items() if not ok]
    print(json.dumps({"failed": bad, "beyond their bound": missed}), file=sys.stderr)
    return 1 if bad or missed else 0


def run(setting: Setting, names: Sequence[str], budget: float) -> Iterator[Line]:
    """The sections of those names, in that order, until the seconds are used up."""
    started = time.monotonic()
    with Runner(setting) as runner:
        for name in names:
            left, expected = budget - (time.monotonic() - started), SECTIONS[name]
            if left < expected / 2:
                yield {"section": name, "skipped": f"{left:.0f} s are left, it takes about {expected}", "found": {}}
            else:
                yield runner.run(name, left if setting.small else min(left, 2 * expected))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="toy sizes, to test the kit itself")
    parser.add_argument("--budget", type=float, default=520, help="seconds in all (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, help="a file for all lines, or a folder, for a file with a name of its own")
    parser.add_argument("--wheels", type=Path, help="a folder with wheels or installed packages to use besides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
