"""Errors of a group, in words for a person."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...device_memory import speaks_of_no_memory
from ...errors import GroupError
from ..protocol import Failed


@dataclass
class RankState:
    """The state of a rank, as its owner knows it.

    Attributes:
        phase: what it was last heard to do.
        log: of its process, on this machine; None where it is on another one.
        exitcode: once its process has ended.
        ended: how it ended, in words, where that is not known from an exit code.
        report: of the exception that it raised.
        stacks: where each of its threads was, told after it was silent; where it has no log here.
        silent_for: seconds, once these are too many.
    """

    rank: int
    device: str
    log: Path | None
    phase: str = "starting"
    exitcode: int | None = None
    ended: str = ""
    report: Failed | None = field(default=None, repr=False)
    silent_for: float = 0.0
    stacks: str = field(default="", repr=False)

    def begin(self, doing: str) -> None:
        """It was sent a request, or is starting."""
        self.phase, self.report, self.silent_for = doing, None, 0.0

    @property
    def blame(self) -> int:
        """How likely this rank is the cause rather than a victim of another's end: lower is likelier."""
        if (self.exitcode is not None or self.ended) and self.report is None:
            return 0
        if self.report is not None and not self.report.of_peer:
            return 1
        return 2 if self.silent_for else 3 if self.report is not None else 4


def group_error(states: Sequence[RankState], place: str = "", logs: str = "") -> GroupError:
    """The error of a request that could not be answered: the rank that caused it, what it did, what to do.

    Args:
        place: where a person finds the settings of a group, see ParallelSettings.
        logs: where logs are that do not lie beside the rank's own, in words.
    """
    culprit = min(states, key=lambda state: state.blame)
    lines = [f"Rank {culprit.rank} of {len(states)} ({culprit.device}) {_what(culprit)}, while {culprit.phase}."]
    lines += [advice] if (advice := _advice(culprit, place)) else []
    where = logs if culprit.log is None else f"{culprit.log} and those beside it"
    lines.append(f"All ranks have been stopped; the next prompt starts them anew. Logs: {where}.")
    report = culprit.report
    if report is not None and report.traceback:
        lines.append(report.traceback.rstrip())
    elif tail := _tail(culprit.log) or culprit.stacks:
        lines.append(f"The end of its log:\n{tail}")
    return GroupError("\n".join(lines))


def _what(state: RankState) -> str:
    if state.report is not None:
        return f"failed with {state.report.text}"
    if state.ended:
        return state.ended
    if state.exitcode is not None:
        return f"was killed by {_signal(-state.exitcode)}" if state.exitcode < 0 else f"ended ({state.exitcode})"
    return f"gave no sign of life for {state.silent_for:.0f} s"


def _advice(state: RankState, place: str) -> str:
    if _ran_out_of_memory(state):
        return (
            f"It ran out of memory. Choose weights 'sharded' or 'offloaded'{place}, fewer frames or a smaller picture, "
            "or free the GPU of other programs."
        )
    if state.report is not None and re.search("No space left|shared memory", state.report.traceback):
        return (
            "Shared memory (/dev/shm) or the temporary folder is full. In a container, give it more: docker run "
            "--shm-size=8g, or --ipc=host; or name another folder in the environment variable TMPDIR."
        )
    if state.exitcode == -signal.SIGKILL:
        return "If nobody did that, the machine's memory may have been used up: see the kernel's log (dmesg)."
    if state.exitcode == -signal.SIGBUS:
        return (
            "Shared memory (/dev/shm) is likely full. In a container, give it more: docker run --shm-size=8g, or "
            "--ipc=host."
        )
    if state.silent_for:
        return f"If it is only slow, raise the timeout{place}."
    return ""


def _ran_out_of_memory(state: RankState) -> bool:
    if state.report is not None:
        return state.report.out_of_memory
    # NCCL's watchdog aborts the process, and has said why.
    return state.exitcode == -signal.SIGABRT and speaks_of_no_memory(_tail(state.log))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(log: Path | None, lines: int = 30) -> str:
    if log is None:
        return ""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
