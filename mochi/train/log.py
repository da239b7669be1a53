"""The log of a run: a line of JSON for each step and look, and TensorBoard's files where that is installed."""

import importlib.util
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import clear_errors, write_whole

NAME = "log.jsonl"


class Log:
    """Writes what it is told at once, so that a killed run has all of it.

    Args:
        folder: of the run.
        step: that the run goes on from. What an earlier one has told of later steps is taken out.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / NAME
        self._forget(step)
        with clear_errors(self.path, "the log"):
            self._file = self.path.open("a", encoding="utf-8")
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def tell(self, step: int, values: Mapping[str, Any]) -> None:
        """A line with these values. Numbers go to TensorBoard too."""
        with clear_errors(self.path, "the log"):
            self._file.write(json.dumps({"step": step, **{k: _plain(v) for k, v in values.items()}}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and value is not None:
                    self._board.add_scalar(name, value, step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(OSError):  # what could not be written has been told
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _forget(self, step: int) -> None:
        if not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        write_whole(self.path, "".join(f"{line}\n" for line in kept).encode(), "the log")


def _step_of(line: str) -> float:
    """The step that a line tells of; no end for a line that was cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    """A value as JSON has it: numbers with six digits, and none where it is no number."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
