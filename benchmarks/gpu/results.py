"""Runs of the kit as files: what each keeps, which is the newest, and what is in it."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"

Line = dict[str, Any]
"""Of a section: section, seconds, found (figures by part); failed and where, or skipped, or warnings, if so."""

Result = Mapping[str, Any]
"""date, card, torch, small; lines: of each section, by its name."""


def result_of(lines: Sequence[Line], small: bool) -> dict[str, Any]:
    sections = {line["section"]: line for line in lines}
    machine = sections.get("environment", {}).get("found", {}).get("machine", {})
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "card": machine.get("card", "unknown"),
        "torch": machine.get("torch", "unknown"),
        "small": small,
        "lines": sections,
    }


def save(result: Result, target: Path) -> Path:
    """Write it to a file, or into a folder under a name of its own. Returns the file."""
    if target.is_dir():
        target /= name_of(result)
    target.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    return target


def name_of(result: Result) -> str:
    """Such as 2026-11-27T0145-NVIDIA-H100-80GB-HBM3-torch2.11.0.json."""
    when = re.sub(r":(\d\d):.*", r"\1", result["date"])
    card, torch = (re.sub(r"[^\w.]+", "-", result[key].partition("+")[0]).strip("-") for key in ("card", "torch"))
    return f"{when}-{card}-torch{torch}.json"


def newest(folder: Path = FOLDER, card: str = "") -> Result | None:
    """The newest run at full size on a card with that in its name; None where there is none."""
    runs = (json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json"))
    fitting = [run for run in runs if not run["small"] and card in run["card"]]
    return max(fitting, key=lambda run: run["date"], default=None)


def figure(result: Result | None, *path: str) -> Any:
    """A figure by section, part and name; None where that run did not get it."""
    section, *inside = path
    at: Any = (result or {"lines": {}})["lines"].get(section, {}).get("found")
    for name in inside:
        at = at.get(name) if isinstance(at, Mapping) else None
    return at


def is_failed(found: Any) -> bool:
    """Whether anything in it failed."""
    if not isinstance(found, Mapping):
        return False
    return "failed" in found or any(map(is_failed, found.values()))


def verdicts(found: Any, path: tuple[str, ...] = ()) -> dict[str, bool]:
    """Each `ok` in it, by where it is."""
    if not isinstance(found, Mapping):
        return {}
    here = {" / ".join(path): bool(found["ok"])} if "ok" in found else {}
    return here | {k: v for name, inner in found.items() for k, v in verdicts(inner, (*path, name)).items()}
