"""The tiny model in a real ComfyUI on the GPU, with memory so short that half of its weights stay off the device:
`python -m benchmarks.gpu.comfyui [--wheels FOLDER]`.

ComfyUI runs in a process of its own, with NORMAL_VRAM: denoiser under both samplers, LoRA, decoder, each beside itself
loaded as a whole. The work is tests/host/inside/test_partly_loaded.py. One line of JSON, as the kit's sections have.
With `--device cpu`, where ComfyUI always loads a model as a whole, it is told to load half: that tests this command and
our layers in part, but not what ComfyUI does on a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.comfyui import HostError, find_or_fetch_comfyui

from . import wheels
from .results import is_failed

TESTS = Path(__file__).parents[2] / "tests" / "host" / "inside" / "test_partly_loaded.py"
LIMIT = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.comfyui", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="default: %(default)s")
    parser.add_argument("--wheels", type=Path, help="see python -m benchmarks.gpu")
    options = parser.parse_args()
    started = time.monotonic()
    with TemporaryDirectory(prefix="mochi-comfyui-") as folder:
        added = wheels.use(options.wheels, Path(folder, "wheels")) if options.wheels else []
        line = {"section": "comfyui", "device": options.device, **run(options.device, added, Path(folder))}
    print(json.dumps({**line, "seconds": round(time.monotonic() - started, 2)}), flush=True)
    return 1 if is_failed(line) or is_failed(line["found"]) else 0


def run(device: str, path: list[str], folder: Path) -> dict[str, Any]:
    """found: of each test whether it passed, and what it measured. path: where there are more libraries."""
    try:
        host = find_or_fetch_comfyui(python=None)
    except (HostError, FileNotFoundError) as problem:
        return {"skipped": f"there is no ComfyUI ({problem}): name its folder in COMFYUI_PATH", "found": {}}
    if find_spec("pytest") is None:
        return {"skipped": "pytest is not installed", "found": {}}
    report = folder / "report.xml"
    environment = {**os.environ, "COMFYUI_PATH": str(host), "MOCHI_NO_SETUP": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])])
    if device == "cuda":
        environment["MOCHI_TEST_GPU"] = "1"
    command = [sys.executable, "-m", "pytest", str(TESTS), f"--junitxml={report}", "--color=no", "-q"]
    try:
        done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {LIMIT:.0f} s", "where": str(TESTS.name), "found": {}}
    if not report.is_file() or not (found := outcomes(report)):
        return {
            "failed": f"pytest ended ({done.returncode})",
            "where": (done.stdout + done.stderr)[-2000:],
            "found": {},
        }
    return {"found": found}


def outcomes(report: Path) -> dict[str, dict[str, Any]]:
    """Of a JUnit report: for each test what it recorded, and why it failed or was skipped."""
    found = {}
    for case in xml.parse(report).iter("testcase"):
        figures: dict[str, Any] = {p.get("name"): float(p.get("value")) for p in case.iter("property")}
        for outcome in case:
            if outcome.tag in ("failure", "error"):
                figures |= {"failed": outcome.get("message", ""), "where": (outcome.text or "")[-2000:]}
            elif outcome.tag == "skipped":
                figures["skipped"] = outcome.get("message", "")
        found[case.get("name")] = {"seconds": float(case.get("time", 0)), **figures}
    return found


if __name__ == "__main__":
    sys.exit(main())
